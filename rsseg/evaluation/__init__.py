"""Scoring of trained runs: on whole scenes of a split, on images with other labels, and of finished maps against masks.

This file imports nothing, so that a process beside a comparison imports only the module that it needs.
"""
