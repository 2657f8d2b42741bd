"""The rules of thumb on censuses made for them."""

import numpy as np
import pytest
from tiny import CONFIGS

from rsseg.data.blocks import Blocks
from rsseg.data.census import BandStatistics, Census
from rsseg.describe import advice
from rsseg.describe.advice import RULES, SITUATIONS, SplitFacts, advise, candidates
from rsseg.describe.objects import ObjectSizes
from rsseg.task import make_task

CONFIG_NAMES = {path.stem for path in (CONFIGS / "loss").glob("*.yaml")}
BANDS = BandStatistics(**dict.fromkeys(("mean", "std", "min", "max", "percentiles"), np.zeros(1)), count=1, missing=0.0)


def facts_of(task, classes, scenes, objects=None):
    """Facts of scenes of one block each, given as pixels per class; the rest of 10,000 is unlabelled (binary: label 0)."""
    task, positives = make_task(task, tuple(classes)), np.array(scenes)
    sizes = np.full((len(scenes), 2), 100)
    if task.kind == "multiclass":
        valid, ignored = np.repeat(positives.sum(axis=1, keepdims=True), len(classes), axis=1), 10_000 - positives.sum(axis=1)
    else:
        valid, ignored = np.full_like(positives, 10_000), np.zeros(len(scenes), int)
    blocks = Blocks(np.column_stack([positives, ignored]).astype(np.uint16), sizes)
    return SplitFacts.of(Census(positives, valid, BANDS, blocks, None, None), task, sizes, objects or {})


def situations(about, facts):
    return {rule.situation for rule in advise(about, facts)}


def sizes(width=50.0, small=0.0):
    return ObjectSizes(9, [5000.0] * 3, width, small, 0)


def test_facts_of_a_multiclass_split():
    facts = facts_of("multiclass", ["a", "b", "never"], [[9000, 1000, 0], [9000, 0, 0], [10_000, 0, 0]])
    assert (facts.subject, facts.frequent, facts.rare, facts.ratio) == ("land cover", "a", "b", 28)
    assert facts.majority == pytest.approx(28 / 29)
    assert facts.quiet == pytest.approx(2 / 3)
    assert facts.patchy == ["b"]


def test_the_background_of_a_binary_split_is_a_class():
    facts = facts_of("binary", ["roof"], [[100], [0]])
    assert (facts.subject, facts.frequent, facts.rare) == ("foreground", "background", "roof")
    assert facts.ratio == 19_900 / 100
    assert facts.quiet == 0.5


def test_the_rarest_label_of_a_multilabel_split_decides():
    facts = facts_of("multilabel", ["wet", "lit"], [[5000, 400], [5000, 0], [0, 0]])
    assert (facts.frequent, facts.rare, facts.ratio) == ("everything else", "lit", 29_600 / 400)
    assert facts.quiet == pytest.approx(1 / 3)


@pytest.mark.parametrize(("rare", "expected"), [
    (5000, None), (2100, None), (2000, "moderate imbalance"), (101, "moderate imbalance"), (100, "extreme imbalance"),
])  # fmt: skip
def test_imbalance_of_a_binary_split_begins_at_a_fifth_and_is_extreme_at_a_hundredth(rare, expected):
    facts = facts_of("binary", ["roof"], [[rare]])
    degree = situations("losses", facts) & {"moderate imbalance", "extreme imbalance"}
    assert degree == ({expected} if expected else set())
    assert ("imbalance" in situations("sampling", facts)) == (expected is not None)


def test_thin_and_small_objects_ask_for_losses_of_edges_and_gaps_never_for_lovasz_alone():
    scenes, asked = [[6000, 4000]], {"ce_lovasz", "ce_dice_boundary", "dice_cl_dice", "ce_dice_skeleton_recall"}
    plain = facts_of("multiclass", ["a", "b"], scenes, {"a": sizes(), "b": sizes()})
    thin = facts_of("multiclass", ["a", "b"], scenes, {"a": sizes(), "b": sizes(width=4)})
    small = facts_of("multiclass", ["a", "b"], scenes, {"a": sizes(small=0.6), "b": sizes()})
    assert (thin.thin, thin.small, small.thin, small.small) == (["b"], [], [], ["a"])
    for facts, expected in ((plain, set()), (thin, asked), (small, {"ce_lovasz", "ce_dice_boundary"})):
        assert asked & set(candidates(facts)) == expected
        assert "lovasz" not in candidates(facts)
    assert "boundary IoU" in [name for rule in advise("metrics", thin) for name in rule.take]


def test_plain_lovasz_came_behind_and_is_recommended_nowhere():
    from omegaconf import OmegaConf

    assert not any("lovasz" in rule.take for rule in RULES["losses"])
    for name in ("losses", "losses_lr"):
        assert "lovasz" not in OmegaConf.load(CONFIGS / f"sweep/{name}.yaml").hydra.sweeper.params.loss.split(",")


@pytest.mark.parametrize(("kind", "ratio", "expected"), [
    ("land cover", 2, ["ce", "ce_dice", "weighted_ce", "focal"]),
    ("foreground", 2, ["ce", "ce_dice", "dice", "jaccard", "focal", "tversky", "ce_lovasz"]),
    ("foreground", 20, ["ce", "ce_dice", "weighted_ce", "dice", "jaccard", "focal", "tversky", "ce_lovasz"]),
    ("land cover", 200, ["ce", "ce_dice", "dice", "focal", "weighted_ce"]),
    ("detection", 1, ["centres"]),
    ("regression", 1, ["mse", "mae", "huber", "log_cosh"]),
])  # fmt: skip
def test_the_losses_of_each_task(kind, ratio, expected):
    assert candidates(SplitFacts(kind, "a", "b", ratio)) == expected


def test_costly_misses_are_named_but_yours_to_decide():
    facts = SplitFacts("land cover", "a", "b")
    assert "if misses cost more than false alarms" in situations("losses", facts)
    assert "tversky" not in candidates(facts)


def test_every_loss_named_is_a_config_and_every_reason_can_be_written(monkeypatch):
    assert {loss for rule in RULES["losses"] for loss in rule.take} <= CONFIG_NAMES
    facts = facts_of("binary", ["roof"], [[10]], {"roof": sizes(width=3, small=1)})
    used = {rule.situation for rules in RULES.values() for rule in rules}
    assert used == SITUATIONS.keys()
    monkeypatch.setattr(advice, "SITUATIONS", dict.fromkeys(SITUATIONS, lambda facts: True))
    for about, rules in RULES.items():
        written = advise(about, facts)
        assert len(written) == len(rules)
        assert all("{" not in rule.why for rule in written)


def test_tversky_minds_misses_more_than_false_alarms():
    from omegaconf import OmegaConf

    term = OmegaConf.load(CONFIGS / "loss/term/tversky.yaml")
    assert term.beta > term.alpha
    assert (term.beta, term.alpha) == (0.7, 0.3)  # as the rule says
