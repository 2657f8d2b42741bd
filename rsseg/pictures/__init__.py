"""Pictures: windows with their labels and predictions, how a run went and ended, and a dataset at a glance."""
