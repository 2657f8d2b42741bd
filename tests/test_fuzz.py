"""Random datasets and overrides give a result or a line; `python tests/fuzz.py 2000` tries more of them."""

from functools import cache

import pytest
from fuzz import KINDS, run_case

EACH = 10
outcome = cache(run_case)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [0, EACH, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2 * EACH, 100, EACH))])
def test_a_result_or_a_line(kind, first):
    for number in range(first, first + EACH):
        assert outcome(f"{kind}-{number}")


@pytest.mark.parametrize("kind", KINDS)
def test_cases_are_of_both_outcomes(kind):
    """What is refused always, or never, would test little."""
    found = [outcome(f"{kind}-{number}") for number in range(30)]
    assert 0 < found.count("result") < 30
