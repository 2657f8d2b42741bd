"""Counts at cross-fitted thresholds, and the scores that the regret is made of."""

import numpy as np
import pytest
from run_folders import BINARY, make_records

from rsseg.compare.counts import pooled
from rsseg.compare.threshold import crossfit_histogram, threshold_regret

FIRST = np.array([True, False, True, True, False])


@pytest.mark.parametrize("metric", ["iou", "dice"])
def test_histogram(metric):
    records = make_records(BINARY, "ce", 1, scenes=5)
    fixed, tuned = crossfit_histogram(records.best.histogram, metric, FIRST)
    np.testing.assert_array_equal(fixed, records.counts[-1])  # at 0.5 the histogram loses nothing
    expected = threshold_regret(records.best.histogram, metric, FIRST)
    assert (pooled(fixed, metric), pooled(tuned, metric)) == (expected.fixed, expected.tuned)
    assert expected.regret > 0.01
