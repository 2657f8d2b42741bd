"""One run: its loop, its checkpoints, what stops it, how it goes on, and how it is scored."""
