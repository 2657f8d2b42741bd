"""Which term of each composition leads, over the seeds of a comparison."""

from __future__ import annotations

from functools import reduce

import numpy as np

from rsseg.compare.fair import Comparison
from rsseg.compare.findings import Cosines, Gains, Shares


def mean_gradients(comparison: Comparison) -> tuple[Shares, Cosines, Gains, list[str]]:
    """Means over all seeds, at the validations that all of them have; and what was left out for that, in words."""
    shares: Shares = {}
    cosines: Cosines = {}
    gains: Gains = {}
    notes = []
    for label, row in zip(comparison.labels, comparison.runs, strict=True):
        records = [run.records for run in row if run.records is not None]
        steps = reduce(np.intersect1d, [r.steps for r in records]) if records else np.zeros(0, dtype=np.int64)
        most = max((len(r.steps) for r in records), default=0)
        measured = [r for r in records if r.gain is not None]
        several = bool(records) and len(records[0].terms) > 1
        if len(steps) < most and (several or measured):
            notes.append(f"{label}: its seeds share {len(steps)} of {most} validations; its gradients are means over these.")
        if not len(steps):
            continue
        at = {id(r): np.isin(r.steps, steps) for r in records}
        for place in records[0].gradient if several else ():
            norms, angles = (np.array([r.gradient[place][i][at[id(r)]] for r in records]) for i in (0, 1))
            total = norms.sum(-1, keepdims=True)
            share = np.where(total > 0, norms / np.where(total > 0, total, 1), 0).mean(0)
            shares[label, place] = (records[0].terms, steps, share)
            cosines[label, place] = angles.mean(0)
        if measured:
            gain = np.mean([np.asarray(r.gain)[at[id(r)]] for r in measured], axis=0)
            gains[label] = (records[0].terms, steps, gain)
            if len(measured) < len(records):
                notes.append(f"{label}: one-step gains were recorded for {len(measured)} of {len(records)} seeds.")
    return shares, cosines, gains, notes
