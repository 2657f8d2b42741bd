"""One run: its loop, its checkpoints, what stops it, how it goes on, what it records, and how it is scored."""
