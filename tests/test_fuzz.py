"""Random datasets and overrides give a result or a line; `python tests/fuzz.py 2000` tries more of them."""

import pytest
from fuzz import KINDS, run_case

CASES = 100
EACH = 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", range(0, CASES, EACH))
def test_a_result_or_a_line(kind, first):
    found = [run_case(f"{kind}-{number}") for number in range(first, first + EACH)]
    assert len(found) == EACH


def test_cases_are_of_both_outcomes():
    """What is refused always, or never, would test little."""
    for kind in KINDS:
        found = [run_case(f"{kind}-{number}") for number in range(30)]
        assert 0 < found.count("result") < 30
