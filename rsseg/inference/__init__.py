"""Inference: predictions of trained models on scenes, as maps, files and exports."""
