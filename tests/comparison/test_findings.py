"""What a comparison found, against the counts it is made of: by hand, by NumPy and by scikit-learn."""

import dataclasses

import numpy as np
import pytest
from run_folders import (
    BINARY,
    FOUR,
    HEIGHT,
    PANEL,
    changed,
    counted_records,
    height_sums,
    label_counts,
    made_comparison,
    made_findings,
    made_run,
    make_records,
    make_sweep,
    of_label,
    steady,
    write_run,
)
from scipy.optimize import brentq
from scipy.stats import kendalltau
from scipy.stats import t as student
from sklearn.metrics import f1_score, jaccard_score, recall_score

from rsseg.comparison.findings import Findings, selection_regret, term_cosines
from rsseg.comparison.measures import measures
from rsseg.comparison.selection import gather
from rsseg.contract import InputError
from rsseg.metrics import metrics
from rsseg.metrics.scores import class_counts
from rsseg.task import Binary, Multilabel

IOU = metrics(BINARY)["iou"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Records by folder, and what was found of them."""
    root = tmp_path_factory.mktemp("binary")
    with pytest.MonkeyPatch.context() as patch:
        records = make_sweep(root, patch, losses=("ce", "dice", "ce_dice", "focal"), seeds=(1, 2, 3))
        return records, Findings(gather([root]))


def iou_of(counts):
    """Of counts ``[..., S, 1, 4]``, pooled."""
    hits, wrong, missed = np.moveaxis(counts[..., 0, :3].sum(-2), -1, 0)
    return hits / (hits + wrong + missed)


def test_scores_are_those_of_the_counts_in_the_folders(swept):
    records, found = swept
    for run, place in zip(found.comparison.all_runs, np.ndindex(4, 3), strict=True):
        known = records[run.folder].chosen
        assert found.ranked.values[place] == pytest.approx(iou_of(known[0]))
        assert found.tuned.values[place] == pytest.approx(iou_of(known[1]))
        assert found.gain.values[place] == pytest.approx(iou_of(known[1]) - iou_of(known[0]))
    assert [found.labels[i] for i in found.order] == ["dice", "ce_dice", "ce", "focal"]
    assert [row[0].label for row in found.comparison.runs if row[0].is_cross_entropy] == ["ce"]


def test_what_was_moved_by_a_threshold_alone_is_equal_once_it_is_tuned(swept):
    found = swept[1]
    ce, dice, focal = (found.labels.index(name) for name in ("ce", "dice", "focal"))
    assert found.ranked.lead().low[dice, ce] > 0
    assert found.tuned.lead().low[dice, ce] <= 0 <= found.tuned.lead().high[dice, ce]
    assert found.tune
    assert found.advised is found.tuned
    assert found.labels.index("focal") in found.advised.behind
    assert found.chances.best[focal] == found.chances.best.min() < 0.1
    assert found.residual[focal].min() > 0.05
    assert np.abs(found.residual[[ce, dice]]).max() < 0.01


def test_scores_of_classes_are_scikit_learns():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, (6, 500))
    called = np.where(
        rng.random((2, 3, 6, 500)) < np.array([0.6, 0.4])[:, None, None, None], truth, rng.integers(0, 4, (2, 3, 6, 500))
    )
    matrices = [
        [[np.bincount(4 * t + c, minlength=16).reshape(1, 4, 4) for t, c in zip(truth, scenes, strict=True)] for scenes in row]
        for row in called
    ]
    found = made_findings(np.array([[class_counts(np.array(m), FOUR) for m in row] for row in matrices]), task=FOUR)
    for i, j in np.ndindex(2, 3):
        both = truth.ravel(), called[i, j].ravel()
        for name, score in (("iou", jaccard_score), ("dice", f1_score), ("recall", recall_score)):
            assert found.estimates[name].values[i, j] == pytest.approx(score(*both, average="macro"))
        scenes = [jaccard_score(t, c, average="macro") for t, c in zip(truth, called[i, j], strict=True)]
        assert found.estimates["scene_iou"].values[i, j] == pytest.approx(np.mean(scenes))


def test_a_scene_is_scored_by_the_checkpoint_of_the_other_half():
    """The first half would choose the second validation, the other half the third; nothing was counted when training ended."""
    by_scene = np.array([[0.1, 0.2, 0.1, 0.2], [0.5, 0.3, 0.7, 0.3], [0.4, 0.6, 0.4, 0.8]])  # [V, S], halves alternate
    rows = []
    for label in ("ce", "dice"):
        row = []
        for seed in (1, 2, 3):
            known = counted_records(label_counts(by_scene[0])[:, None], seen=label_counts(by_scene)[:, :, None])
            row.append(made_run(label, seed, dataclasses.replace(known, chosen=None)))
        rows.append(row)
    found = Findings(made_comparison(rows))
    assert found.ranked.values == pytest.approx(np.full((2, 3), np.mean([0.4, 0.3, 0.4, 0.3])))
    assert found.optimism == pytest.approx(np.full((2, 3), np.mean([0.4, 0.6, 0.4, 0.8]) - np.mean([0.4, 0.3, 0.4, 0.3])))
    assert found.last_is_best.all()
    assert found.tuned is None
    assert found.gain is None
    assert np.isnan(found.residual).all()


def test_what_is_drawn_are_groups():
    """Scenes of one group count as one scene with the sums of all."""
    iou, pixels = steady([0.6, 0.58], scenes=12, of_scenes=0.03), np.random.default_rng(0).uniform(500, 1500, 12)
    groups = [f"town_{s // 2}" for s in range(12)]
    found = of_label(iou, pixels=pixels, groups=groups)
    whole = label_counts(iou, pixels).reshape(2, 5, 6, 2, 4).sum(3)
    merged = made_findings(whole[:, :, :, None])
    for name in ("iou", "recall", "boundary_iou"):
        one, other = found.estimates[name], merged.estimates[name]
        assert one.mean.value == pytest.approx(other.mean.value)
        assert one.difference.variance == pytest.approx(other.difference.variance)
    assert found.estimates["scene_iou"].mean.value != pytest.approx(merged.estimates["scene_iou"].mean.value, abs=1e-6)
    assert (found.group_count, merged.group_count) == (6, 6)
    alone = of_label(iou, pixels=pixels)
    assert alone.group_count == 12


THREE = Multilabel(("roof", "road", "dam"))


def of_three(pixels, **options):
    """Findings of three labels with so many pixels ``[S, 3]``: IoU 0.6, 0.5 and 0.1."""
    iou = np.broadcast_to(np.array([0.6, 0.5, 0.1]), (2, 5, len(pixels), 3)) + steady([0, -0.05], scenes=len(pixels))[..., None]
    return made_findings(label_counts(iou, pixels), task=THREE, **options)


def test_a_class_in_one_group_is_left_out_of_means():
    pixels = np.full((8, 3), 1000.0)
    assert of_three(pixels).omitted == []
    pixels[1:, 2] = 0
    found = of_three(pixels)
    assert found.omitted == ["dam"]
    assert found.ranked.mean.value == pytest.approx([0.55, 0.50])
    assert np.isfinite(found.ranked.lead().low).all()
    assert found.ranked.measure.label == "IoU of 2 of 3 classes"
    assert of_three(pixels, metric="iou/dam").ranked.measure.label == "IoU of dam"
    pixels[1:, 1] = 1e-3  # nearly one group: without two of three, the mean would be of another thing
    found = of_three(pixels)
    assert (found.omitted, found.rare) == ([], ["road", "dam"])
    assert found.ranked.mean.value == pytest.approx([0.4, 0.35], abs=0.001)
    assert (found.ranked.measure.label, found.kept) == ("IoU", ["roof", "road", "dam"])
    groups = list("aabbccdd")
    pixels = np.full((8, 3), 1000.0)
    pixels[2:, 2] = 0
    assert of_three(pixels).omitted == []  # in two scenes
    assert of_three(pixels, groups=groups).omitted == ["dam"]  # of one group


def test_of_two_groups_a_class_in_one_is_left_out():
    pixels = np.full((2, 3), 1000.0)
    pixels[1] = [900, 700, 0]
    assert of_three(pixels).omitted == ["dam"]


def test_a_class_that_the_user_leaves_out_is_no_lone_one():
    pixels = np.full((8, 3), 1000.0)
    pixels[1:, 2] = 0
    runs = of_three(pixels).comparison
    found = Findings(runs, without=["dam"])
    assert (found.omitted, found.without) == ([], ["dam"])
    assert found.ranked.mean.value == pytest.approx([0.55, 0.50])
    for run in runs.all_runs:
        run.without = ["roof"]
    assert Findings(runs).ranked.mean.value == pytest.approx(
        [0.3, 0.25], abs=0.001
    )  # as the runs do; dam is rare, but half of them
    assert Findings(runs, "iou/roof").ranked.mean.value == pytest.approx([0.6, 0.55])


def test_tuning_is_advised_where_the_best_tuned_loss_is_better_and_some_gain_is_sure():
    base = [0.60, 0.50]
    cases = {(0.70, 0.60): True, (0.60, 0.50): False, (0.57, 0.58): False, (0.59, 0.62): True}
    for tuned, advised in cases.items():
        found = of_label(steady(base), tuned=steady(tuned))
        assert found.tune == advised, tuned
        assert found.advised is (found.tuned if advised else found.ranked)
    assert not of_label(steady(base), tuned=steady([0.7, 0.6]), metric="recall").tune  # it is not what was tuned for
    assert of_label(steady(base), tuned=steady([0.7, 0.6]), metric="dice").tune
    assert not of_label(steady(base, seeds=2), tuned=steady([0.7, 0.6], seeds=2)).tune


def test_residual_regret_is_from_the_expected_score_of_the_best():
    fixed, tuned = steady([0.6, 0.5]), steady([0.65, 0.55], of_seeds=0.01)
    found = of_label(fixed, tuned=tuned)
    assert found.chances.mean[0] == pytest.approx(0.65, abs=0.01)
    assert found.residual == pytest.approx(found.chances.mean.max() - found.tuned.values)
    alone = of_label(fixed[:1], tuned=tuned[:1])
    assert alone.residual.mean() == pytest.approx(0)  # nothing to shrink towards


def enough(gap, parts, freedoms, counts, part):
    """How many seeds, or groups, make Student's interval of one pair narrower than its gap, by Welch's freedom."""
    for number in range(counts[part], 1000):
        v, f = np.array(parts), np.array(freedoms)
        more = number / counts[part]
        v[part], f[part] = v[part] / more, f[part] * more
        freedom = v.sum() ** 2 / (v**2 / f).sum()
        if student.ppf(0.975, freedom) * np.sqrt(v.sum()) < gap:
            return number
    return None


@pytest.mark.parametrize("moves", [(0.02, 0.0), (0.0, 0.05), (0.01, 0.01), (0.012, 0.02), (0.02, 0.03)])
@pytest.mark.parametrize("second", [0.59, 0.585, 0.597])
def test_what_would_decide_is_welchs(moves, second):
    found = of_label(steady([0.60, second], of_seeds=moves[0], of_scenes=moves[1]))
    spread, reach = found.ranked.difference, found.reach
    parts = float(spread.of_seeds[0, 1]), float(spread.of_groups[0, 1])
    assert reach.limit == ("seeds" if parts[0] > parts[1] else "groups")
    half = student.ppf(0.975, spread.freedom[0, 1]) * np.sqrt(sum(parts))
    assert reach.gaps == pytest.approx((half, half), rel=1e-3)

    def mismatch(freedom):  # that of the groups, from the freedom of both
        return sum(parts) ** 2 / (parts[0] ** 2 / 4 + parts[1] ** 2 / freedom) - spread.freedom[0, 1]

    of_groups = brentq(mismatch, 0.1, 1e3) if parts[1] > 1e-12 else 1.0
    expected = [enough(0.60 - second, parts, (4.0, of_groups), (5, 8), part) for part in (0, 1)]
    for known, by_hand in zip((reach.seeds, reach.groups), expected, strict=True):
        assert (known is None) == (by_hand is None)
        assert known == by_hand or abs(known - by_hand) <= 0.01 * by_hand + 1  # quantiles are interpolated


def test_collapsed_runs():
    counts = label_counts(steady([0.6, 0.5]))[..., None, :]
    counts[0, 1, :, 0] = [1000, 9000, 0, 0]
    counts[1, 2, :, 0] = [0, 0, 1000, 9000]
    assert np.argwhere(made_findings(counts).collapsed).tolist() == [[0, 1], [1, 2]]
    three = np.broadcast_to(label_counts(0.5), (1, 2, 4, 3, 4)).copy()
    three[..., 2, :] = [0, 0, 0, 10_000]  # a label that is absent, and never called
    three[0, 1, :, :2] = [0, 0, 1000, 9000]
    assert made_findings(three, task=THREE).collapsed.tolist() == [[False, True]]
    three[0, 1, :, 1] = [500, 0, 500, 9000]  # one of two varies
    assert not made_findings(three, task=THREE).collapsed.any()
    four = np.broadcast_to(label_counts(0.5), (1, 3, 4, 4, 4)).copy()
    four[0, 0] = [[1000, 3000, 0, 0], *[[0, 0, 1000, 3000]] * 3]
    four[0, 1] = [[1000, 0, 0, 0], *[[0, 0, 0, 1000]] * 3]  # there is no other class
    assert made_findings(four, task=FOUR).collapsed.tolist() == [[True, False, False]]
    assert not made_findings(height_sums(steady([1.0, 2.0]))[..., None, :], task=HEIGHT).collapsed.any()


def test_tau_is_of_the_exact_loss_of_both_halves():
    rng = np.random.default_rng(0)
    rows, expected = [], []
    for label in ("ce", "dice"):
        row = []
        for seed in range(3):
            seen, own = label_counts(rng.uniform(0.2, 0.8, (12, 6)))[:, :, None], rng.random((12, 2))
            row.append(made_run(label, seed, dataclasses.replace(counted_records(seen[0], seen=seen), own=own)))
            iou, loss = iou_of(seen), own.mean(1)
            expected.append(kendalltau(-loss, iou).statistic)
        rows.append(row)
    assert Findings(made_comparison(rows)).tau.ravel() == pytest.approx(np.array(expected))
    assert np.isnan(of_label(steady([0.6, 0.5])).tau).all()  # of two validations


def selected(known, loss):
    """What the checkpoints cost that a loss ``[V, 2]`` picks by half, as IoU on the other half."""
    iou = [iou_of(known.counts[:, part]) for part in (known.first, ~known.first)]
    return np.mean([iou[1 - here][iou[here].argmax()] - iou[1 - here][loss[:, here].argmin()] for here in (0, 1)])


def test_selection_is_by_the_loss_that_trained():
    rng, regrets = np.random.default_rng(0), []
    for seed in range(20):
        seen, own = label_counts(rng.uniform(0.2, 0.8, (8, 6)))[:, :, None], rng.random((8, 2))
        known = dataclasses.replace(counted_records(seen[0], seen=seen), own=own)
        regrets.append(Findings(made_comparison([[made_run("ce", seed, known)]])).selection_regret.item())
        assert regrets[-1] == pytest.approx(selected(known, own))
    assert min(regrets) < 0 < max(regrets)  # the choice by the metric is another half's too
    unknown = dataclasses.replace(known, own=np.full((8, 2), np.nan))
    assert np.isnan(Findings(made_comparison([[made_run("lovasz", 1, unknown)]])).selection_regret).all()
    by_hand = selection_regret(
        [[1, 2], [2, 1]], label_counts([[0.5, 0.9], [0.8, 0.1]])[:, :, None], np.array([True, False]), IOU.quality
    )
    assert by_hand == pytest.approx(((0.1 - 0.9) + (0.5 - 0.8)) / 2)


def test_losses_of_the_panel_are_matched_by_name(tmp_path, monkeypatch):
    records = make_sweep(tmp_path, monkeypatch, losses=("ce", "dice"), seeds=(1, 2), scenes=2)
    comparison = gather([tmp_path])
    found = Findings(comparison)
    assert found.panel == PANEL
    for run, place in zip(comparison.all_runs, np.ndindex(2, 2), strict=True):
        assert found.panel_values[place] == pytest.approx(records[run.folder].values[-1].mean(-1))
    run = comparison.runs[1][1]
    other = dataclasses.replace(run.records, panel=["dice", "ce"], values=run.records.values[:, [1, 0]])
    comparison.runs[1][1] = changed(run, records=other)
    again = Findings(comparison)
    assert again.panel == ["ce", "dice"]
    np.testing.assert_array_equal(again.panel_values, found.panel_values[..., :2])


def test_shares_are_means_over_all_seeds_of_each_seeds_share(tmp_path, monkeypatch):
    records = {}
    for loss in ("ce", "ce_dice"):
        for seed in (1, 2, 3):  # seed 1 stopped early, and was validated at 150, where no other was
            folder, steps = tmp_path / f"loss={loss},seed={seed}", (100, 150, 200) if seed == 1 else (100, 200, 300, 400)
            records[folder] = make_records(BINARY, loss, seed, scenes=2, steps=steps)
            write_run(folder, BINARY, loss, seed, records[folder])
    norms = {1: [[1.0, 3.0], [9.0, 0.0], [1.0, 1.0]], 2: [[3.0, 1.0], [1.0, 1.0], [1.0, 3.0], [1.0, 1.0]]}
    norms[3] = [[100.0, 100.0], [100.0, 300.0], [1.0, 1.0], [1.0, 1.0]]  # a seed of large gradients counts as the others do
    for seed, given in norms.items():
        folder = tmp_path / f"loss=ce_dice,seed={seed}"
        gain = np.full((len(given), 2), 2.0 if seed == 2 else np.nan)
        cosines = records[folder].gradient["logits"][1]
        gradient = dict.fromkeys(("logits", "layer"), (np.array(given), cosines))
        records[folder] = dataclasses.replace(records[folder], gradient=gradient, gain=gain)
    monkeypatch.setattr("rsseg.comparison.runs.load_records", lambda folder, head, split="val": records[folder])
    found = Findings(gather([tmp_path]))
    terms = found.terms[found.terms["loss"] == "ce_dice"]
    shares = terms.pivot(index="step", columns="term", values="share_logits")
    assert (shares.columns.tolist(), shares.index.tolist()) == (["ce", "dice"], [100, 200])
    assert shares["ce"].tolist() == pytest.approx([(0.25 + 0.75 + 0.5) / 3, (0.5 + 0.5 + 0.25) / 3])
    assert terms["gain"].tolist() == [2] * 4
    assert found.terms[found.terms["loss"] == "ce"]["gain"].isna().all()
    assert term_cosines(found.comparison)[["logits", "layer"]].to_numpy() == pytest.approx(0.6)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_term_without_a_gradient_has_no_cosine(swept):
    comparison, row = swept[1].comparison, []
    for run in comparison.runs[comparison.labels.index("ce_dice")]:
        apart = {
            place: (norms, cosines * np.where(np.eye(2), 1, np.nan)) for place, (norms, cosines) in run.records.gradient.items()
        }
        row.append(changed(run, records=dataclasses.replace(run.records, gradient=apart)))
    cosines = term_cosines(dataclasses.replace(comparison, runs=[row]))
    assert len(cosines) == 1
    assert cosines[["logits", "layer"]].isna().all(axis=None)


def test_a_metric_that_nobody_recorded():
    found = of_label(steady([0.6, 0.5]))
    assert Findings(found.comparison, "boundary_iou").metric == "boundary_iou"
    with pytest.raises(InputError, match=r"=bounday_iou: losses can't be ranked by it.*\(did you mean 'boundary_iou'"):
        measures(Binary(("a",)), ranked_by="bounday_iou")
    with pytest.raises(
        InputError, match=r"=class_ece: losses can't be ranked by it.*; take iou, dice, precision, .*boundary_iou or iou/a"
    ):
        measures(Binary(("a",)), ranked_by="class_ece")
    for run in found.comparison.all_runs:
        run.records = dataclasses.replace(run.records, chosen=None)
    with pytest.raises(InputError, match=r"boundary_iou: not every run recorded it; take iou, dice, precision, recall"):
        Findings(found.comparison, "boundary_iou")


def test_trivial_predictions_are_scored_by_the_ranking_metric():
    found = of_label(steady([0.6, 0.5]))
    everything = np.broadcast_to([1000.0, 9000.0, 0.0, 0.0], (8, 1, 4))
    for metric, score in (("iou", 0.1), ("recall", 1.0), ("precision", 0.1)):
        assert Findings(found.comparison, metric, trivial={"all positive": everything}).baselines == {"all positive": score}
    assert Findings(found.comparison, "boundary_iou", trivial={"all positive": everything}).baselines == {}


def test_what_is_tuned_is_what_losses_are_ranked_by_where_that_can_be_tuned_for():
    iou = steady([0.6, 0.5])
    for metric, tuned_for in (("", "iou"), ("iou", "iou"), ("dice", "dice"), ("recall", "iou"), ("scene_iou", "iou")):
        found = of_label(iou, tuned=iou + 0.1, metric=metric)
        assert found.tuned_for == tuned_for
        after = 0.1 + iou.mean(-1)  # scenes have the same number of pixels
        assert found.tuned.values == pytest.approx(2 * after / (1 + after) if tuned_for == "dice" else after)
        assert found.gain.values == pytest.approx(found.tuned.values - found.estimates[tuned_for].values)


def test_where_a_scene_has_a_score_by_the_prediction_the_order_of_losses_changes_nothing():
    """A strict score exists where a class is predicted, too: one loss alone does that in most scenes here."""
    counts = np.zeros((3, 5, 8, 1, 4))
    counts[:, :, 0] = [5, 1, 1, 9]
    counts[1:, :, 1:, :, 1] = 20
    counts[:, np.arange(5), 0, 0, 0] += np.arange(5)
    one, other = (
        made_findings(counts[order], labels=np.array(["ce", "dice", "focal"])[order], metric="strict_scene_iou")
        for order in ([0, 1, 2], [1, 0, 2])
    )
    lead, swapped = one.ranked.lead(), other.ranked.lead()
    assert lead.low[0, 2] == pytest.approx(swapped.low[1, 2], nan_ok=True)
    assert lead.high[1, 2] == pytest.approx(swapped.high[0, 2], nan_ok=True)


def test_a_metric_without_a_value_is_refused():
    counts = np.tile(np.array([[3.0, 1, 2, 9], [0, 1, 0, 14]]), (2, 3, 4, 1, 1))
    with pytest.raises(InputError, match="metric=recall/road: it has no value"):
        made_findings(counts, labels=["ce", "dice"], metric="recall/road", task=Multilabel(("tree", "road")))
