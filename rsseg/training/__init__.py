"""Training of a run: loop, checkpoints, stopping, resuming, records and scoring."""
