"""A run in training: loop, checkpoints, stopping, resuming, records and scoring."""
