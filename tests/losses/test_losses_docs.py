"""What docs/losses.md shows is what happens."""

import doctest
import re
from dataclasses import fields
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from losses_cases import SHIPPED

from rsseg.losses.terms.base import PixelMean, Term
from rsseg.losses.terms.regression import Quotient

PAGE = Path(__file__).parents[2] / "docs" / "losses.md"


def test_every_example_of_the_page_gives_what_it_says():
    failed, tried = doctest.testfile(str(PAGE), module_relative=False)
    assert tried > 5
    assert failed == 0


def test_every_picture_exists_and_shows_something():
    named = [line.split("](")[1].rstrip(")") for line in PAGE.read_text().splitlines() if line.startswith("![")]
    assert named
    for name in named:
        assert np.std(plt.imread(PAGE.parent / name)) > 0.05


ROWS = [line.split(" | ") for line in PAGE.read_text().splitlines() if re.match(r"\| `[A-Z]\w+`", line)]


def evaluated(formula, **values):
    """The first formula between backquotes, or several: what stands side by side is multiplied."""
    found = []
    for text in re.findall("`([^`]+)`", formula):
        text = re.sub(r"\blog (\w+)", r"log(\1)", text.replace("^", "**"))
        text = re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", text)
        names = {"log": np.log, "cosh": np.cosh, "sqrt": np.sqrt, "abs": np.abs, "max": np.maximum}
        found.append(eval(text, {"__builtins__": {}}, names | values))
    return found[0] if len(found) == 1 else found


def formula_of(name):
    return next(row[1] for row in ROWS if f"`{name}`" in row[0])


KINDS = {kind.__name__: kind for kind in SHIPPED.values()}
REAL = [name for name, kind in KINDS.items() if "regression" in kind.tasks and kind.of_mean is Quotient.of_mean]
OF_SUMS = [name for name, kind in KINDS.items() if kind.sums is not Term.sums and name != "Lovasz"]


@pytest.mark.parametrize("name", REAL)
def test_the_formula_of_an_error_is_that_of_the_page(name):
    loss = KINDS[name](**({"quantile": 0.3} if name == "Pinball" else {}))
    e = np.random.default_rng(0).normal(size=(2, 1, 5, 6)) * 2
    of_error = evaluated(formula_of(name), e=e, delta=1.0, beta=1.0, q=0.3)
    expected = np.where(abs(e) <= 1, *of_error) if isinstance(of_error, list) else of_error
    assert loss(torch.from_numpy(e), torch.zeros(2, 1, 5, 6)).item() == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("name", OF_SUMS)
def test_the_formula_of_sums_is_that_of_the_page(name):
    rng, loss = np.random.default_rng(0), KINDS[name]("binary", **({"alpha": 0.2} if name == "Focal" else {}))
    z, y = rng.normal(size=(2, 1, 5, 6)) * 2, rng.integers(0, 2, (2, 5, 6))
    p, own = 1 / (1 + np.exp(-z[:, 0])), y == 1
    given = {field.name: getattr(loss, field.name) for field in fields(loss)}
    if isinstance(loss, PixelMean):
        given |= {"w_t": 1.0, "alpha_t": np.where(own, 0.2, 0.8), "p_t": np.where(own, p, 1 - p)}
    else:
        over = (0, 1, 2) if loss.over == "batch" else (1, 2)
        tp, fp, fn, tn = ((a * b).sum(over) for a, b in ((p, own), (p, ~own), (1 - p, own), (1 - p, ~own)))
        s = 1.0 if name == "MCC" else 0.0  # which is added to TP and TN there
        given |= {"TP": tp + s, "TN": tn + s, "FP": fp, "FN": fn, "s": 1.0, "pixels": 30}
    expected = np.mean(evaluated(formula_of(name), **given))
    assert loss(torch.from_numpy(z), torch.from_numpy(y)).item() == pytest.approx(expected)


def test_every_loss_leads_to_its_formula_and_its_paper():
    assert len(ROWS) > 25
    for name, formula, paper, *_ in ROWS:
        assert formula.strip(), name
        assert re.search(r"\]\(https://(doi\.org/10\.\d{4,}/\S+|arxiv\.org/abs/\d{4}\.\d{4,5})\)", paper), name


def test_the_table_names_every_loss():
    text = PAGE.read_text()
    missing = [name for name in KINDS if f"`{name}" not in text]
    assert not missing
