"""Description of a dataset: its content, the losses to compare first, and the labels that a trained model doubts."""
