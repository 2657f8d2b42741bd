"""Counts at cross-fitted thresholds give the scores that the regret of each half is made of."""

import numpy as np
import pytest
from run_folders import BINARY, FOUR, make_records

from rsseg.alignment.bias import bias_regret
from rsseg.alignment.counts import counts_of, pooled
from rsseg.alignment.threshold import halves, threshold_regret
from rsseg.alignment.tuning import crossfit_histogram, crossfit_sample


@pytest.mark.parametrize("metric", ["iou", "dice"])
def test_histogram(metric):
    records = make_records(BINARY, "ce", 1, scenes=5)
    fixed, tuned = crossfit_histogram(records.best.histogram, metric)
    np.testing.assert_array_equal(fixed, counts_of(records.confusion[-1], BINARY))  # at 0.5 the histogram loses nothing
    expected, first = threshold_regret(records.best.histogram, metric), halves(5)
    for counts, value in ((fixed, expected.fixed), (tuned, expected.tuned)):
        assert np.mean([pooled(counts[part], metric) for part in (first, ~first)]) == pytest.approx(value)
    assert expected.regret > 0.01


def test_sample():
    records = make_records(FOUR, "dice", 1, scenes=5)
    sample = records.best.sample
    fixed, tuned = crossfit_sample(sample, 5)
    expected, first = bias_regret(**{name: x.numpy() for name, x in sample._asdict().items()}), halves(5)
    for counts, value in ((fixed, expected.fixed), (tuned, expected.tuned)):
        assert np.mean([pooled(counts[part]) for part in (first, ~first)]) == pytest.approx(value)
    exact = pooled(counts_of(records.confusion[-1], FOUR))
    assert pooled(fixed) == pytest.approx(exact, abs=0.02)  # 4,000 of 15,000 pixels
