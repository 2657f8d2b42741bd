"""Counts of sweeps whose truth is known: seeds, groups, and both together make pixels harder or easier."""

import numpy as np

SEEDS_AND_GROUPS = (0.1, 0.5, 0.15, 0.05)
"""Standard deviations, on the logistic scale: of a loss's seeds, of groups, of a loss on a group, of a run on a group."""
MOSTLY_SEEDS, MOSTLY_GROUPS = (0.3, 0.4, 0.05, 0.05), (0.02, 0.6, 0.3, 0.05)


def simulate(rng, gaps, seeds, groups, spread=SEEDS_AND_GROUPS, heavy=False, held=(1.0,), wild=1.0, alike=(0.0, 0.0)):
    """TP, FP, FN and TN, ``[L, R, G, classes, 4]``.

    Args:
        rng: NumPy's generator.
        gaps: ``[L]``, how good each loss is on the logistic scale.
        seeds: R.
        groups: G, of log-normal size.
        spread: See `SEEDS_AND_GROUPS`.
        heavy: Draw from Student's t with three degrees of freedom, of the same variance, in place of the normal.
        held: In which share of the groups each class occurs, two at least.
        wild: By how much the first loss's seeds vary more than the others'.
        alike: Standard deviations of what every other loss shares with the first on a group, and in a seed.
    """
    losses = len(gaps)

    def draw(sd, *shape):
        return sd * (rng.standard_t(3, shape) / 3**0.5 if heavy else rng.normal(size=shape))

    of_seed, of_group, of_both, noise = spread
    trained = draw(of_seed, losses, seeds, 1)
    trained[0] *= wild
    kin = np.arange(losses) % 2
    trained = trained + np.reshape(gaps, (-1, 1, 1)) + draw(alike[1], 2, seeds, 1)[kin]
    classes = []
    for share in held:
        size = 1000 * rng.lognormal(0, 0.6, groups) * (rng.permutation(groups) < max(2, round(share * groups)))
        z = trained + draw(of_group, groups) + draw(of_both, losses, 1, groups) + draw(noise, losses, seeds, groups)
        right = 1 / (1 + np.exp(-z - draw(alike[0], 2, 1, groups)[kin]))
        classes.append(np.stack([right, 0.5 * (1 - right), 1 - right, np.full_like(right, 5.0)], axis=-1) * size[:, None])
    return np.stack(classes, axis=3)
