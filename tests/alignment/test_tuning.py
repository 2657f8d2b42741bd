"""Counts at cross-fitted thresholds give the scores that the regret of each half is made of."""

import numpy as np
import pytest
from run_folders import BINARY, FOUR, make_records

from rsseg.alignment.bias import tune_bias
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
    z, y, scene, w = (x.numpy() for x in records.best.sample)
    fixed, tuned = crossfit_sample(records.best.sample, 5)
    for s, first in enumerate(halves(5)):
        away = halves(5)[scene] != first
        bias, here = tune_bias(z[away], y[away], w[away]), scene == s
        for counts, b in ((fixed[s], 0 * bias), (tuned[s], bias)):
            called = (z[here] + b).argmax(1)
            for c in range(4):
                hits, wrong, missed = (
                    w[here][m].sum()
                    for m in ((y[here] == c) & (called == c), (y[here] != c) & (called == c), (y[here] == c) & (called != c))
                )
                assert counts[c] == pytest.approx([hits, wrong, missed])
    exact = pooled(counts_of(records.confusion[-1], FOUR))
    assert pooled(fixed) == pytest.approx(exact, abs=0.02)  # 4,000 of 15,000 pixels
