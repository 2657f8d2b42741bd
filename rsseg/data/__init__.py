"""Scenes, windows and what happens to them before the model sees them."""
