"""What docs/losses.md shows is what happens."""

import doctest
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import rsseg.losses

PAGE = Path(__file__).parents[2] / "docs" / "losses.md"


def test_every_example_of_the_page_gives_what_it_says():
    failed, tried = doctest.testfile(str(PAGE), module_relative=False)
    assert tried > 25
    assert failed == 0


def test_every_picture_exists_and_shows_something():
    named = [line.split("](")[1].rstrip(")") for line in PAGE.read_text().splitlines() if line.startswith("![")]
    assert named
    for name in named:
        assert np.std(plt.imread(PAGE.parent / name)) > 0.05


def test_the_table_names_every_loss():
    text = PAGE.read_text()
    others = ("WEIGHTING", "Term", "CompositeValue", "EdgeWeight", "Foreign", "SplitLosses", "Weight")
    terms = [n for n in rsseg.losses.__all__ if n[0].isupper() and n not in others]
    missing = [name for name in terms if f"`{name}" not in text]
    assert missing in ([], ["BinaryCrossEntropy"])  # CrossEntropy's sigmoid half
