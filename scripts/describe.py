"""Describe a dataset, or the label noise that a run finds: python scripts/describe.py FOLDER | dataset=NAME | run=FOLDER"""

from rsseg.__main__ import main

if __name__ == "__main__":
    main("describe")
