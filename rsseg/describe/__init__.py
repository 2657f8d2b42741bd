"""What a dataset holds, what to compare on it first, and which of its labels a trained model doubts."""
