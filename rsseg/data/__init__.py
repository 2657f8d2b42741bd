"""Scenes and windows, from files to the batches of a model."""
