"""Pictures: windows with labels and predictions, curves and confusion matrices of runs, and overviews of datasets."""
