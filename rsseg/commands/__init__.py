"""The commands, one a file: its settings and its function. Importing one does not import torch."""

COMMANDS = {
    "train": "train a model, or with -m many of them",
    "compare": "compare the losses of a sweep",
    "evaluate": "score a run, an ensemble or a map",
    "predict": "map scenes",
    "describe": "describe a dataset, or the label noise that a run finds",
    "export": "write a model for use without rsseg",
    "search": "search for settings",
    "reproduce": "train a run again, and say whether the results are the same",
    "new": "start a folder of your own",
}
