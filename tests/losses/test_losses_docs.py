"""What docs/losses.md shows is what happens."""

import doctest
import re
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


def test_every_loss_leads_to_its_formula_and_its_paper():
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if re.match(r"\| `[A-Z]\w+`", line)]
    assert len(rows) > 25
    for name, formula, paper, *_ in rows:
        assert formula.strip(), name
        assert re.search(r"\]\(https://(doi\.org/10\.\d{4,}/\S+|arxiv\.org/abs/\d{4}\.\d{4,5})\)", paper), name


def test_the_table_names_every_loss():
    text = PAGE.read_text()
    others = ("WEIGHTING", "Term", "CompositeValue", "EdgeWeight", "Foreign", "SplitLosses", "Weight")
    terms = [n for n in rsseg.losses.__all__ if n[0].isupper() and n not in others]
    missing = [name for name in terms if f"`{name}" not in text]
    assert missing in ([], ["BinaryCrossEntropy"])  # CrossEntropy's sigmoid half
