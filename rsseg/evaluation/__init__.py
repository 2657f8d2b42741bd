"""Trained runs scored again: on whole scenes, on scenes with labels from elsewhere, and finished maps by masks.

It imports nothing: a process beside a comparison takes one of its files, and not the imports of the others.
"""
