"""Description of a dataset: its content, the losses to compare first, and labels that a trained model contradicts."""
