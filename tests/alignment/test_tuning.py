"""Counts at cross-fitted thresholds, and the scores that the regret is made of."""

import numpy as np
import pytest
from run_folders import BINARY, FOUR, make_records

from rsseg.alignment.bias import crossfit_sample, tune_bias
from rsseg.alignment.counts import pooled
from rsseg.alignment.threshold import crossfit_histogram, threshold_regret

FIRST = np.array([True, False, True, True, False])


@pytest.mark.parametrize("metric", ["iou", "dice"])
def test_histogram(metric):
    records = make_records(BINARY, "ce", 1, scenes=5)
    fixed, tuned = crossfit_histogram(records.best.histogram, metric, FIRST)
    np.testing.assert_array_equal(fixed, records.counts[-1])  # at 0.5 the histogram loses nothing
    expected = threshold_regret(records.best.histogram, metric, FIRST)
    assert (pooled(fixed, metric), pooled(tuned, metric)) == (expected.fixed, expected.tuned)
    assert expected.regret > 0.01


def test_sample():
    records = make_records(FOUR, "dice", 1, scenes=5)
    z, y, scene, w = (x.numpy() for x in records.best.sample)
    fixed, tuned = crossfit_sample(records.best.sample, FIRST)
    for s, first in enumerate(FIRST):
        away = FIRST[scene] != first
        bias, here = tune_bias(z[away], y[away], w[away]), scene == s
        for counts, b in ((fixed[s], 0 * bias), (tuned[s], bias)):
            called = (z[here] + b).argmax(1)
            for c in range(4):
                hits, wrong, missed = (
                    w[here][m].sum()
                    for m in ((y[here] == c) & (called == c), (y[here] != c) & (called == c), (y[here] == c) & (called != c))
                )
                assert counts[c] == pytest.approx([hits, wrong, missed])
    exact = pooled(records.counts[-1])
    assert pooled(fixed) == pytest.approx(exact, abs=0.02)  # 4,000 of 15,000 pixels
