"""What the report says, and that a browser shows it."""

import dataclasses
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from run_folders import BINARY, FOUR, changed, make_records, make_sweep, write_run

from rsseg.compare.fair import gather
from rsseg.compare.figures import FIGURES, draw_cross, draw_curves, draw_regrets
from rsseg.compare.findings import Findings, Tuning, mean_gradients
from rsseg.compare.records import RecordError
from rsseg.compare.report import protocol, say, write_report
from rsseg.compare.scores import compare as compare_sums
from rsseg.compare.scores import measures, of_tuning
from rsseg.compare.style import RULES, spread
from rsseg.compare.tables import checkpoints
from rsseg.compare.words import answer, caveats, verdict
from rsseg.contract import InputError
from rsseg.metrics import metrics
from rsseg.run import compare as compare_runs
from rsseg.task import Binary

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


SCORED, MEASURES = metrics(Binary(("a",))), measures(Binary(("a",)))


def win_matrix(counts):
    return compare_sums(np.asarray(counts, dtype=float), MEASURES["iou"])


def tuning_of(fixed, tuned):
    """What tuning adds, by counts ``[L, R, S, C, 3]`` before and after."""
    moved = compare_sums(np.stack([fixed, tuned], axis=3), of_tuning(SCORED["iou"], "iou")).difference
    return Tuning(MEASURES["iou"].score(fixed.sum(2)), win_matrix(tuned), moved)


def compare(root, metric="iou", **options):
    comparison = gather([root], **options)
    return comparison, Findings(comparison, metric)


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    """Records by folder, the comparison, what was found, and the folder of the report."""
    root = tmp_path_factory.mktemp("binary")
    with pytest.MonkeyPatch.context() as patch:
        records = make_sweep(root, patch)
        comparison, found = compare(root)
    write_report(found, root / "comparison")
    return records, comparison, found, root / "comparison"


def test_scores_are_those_of_the_confusion_matrices(binary):
    records, _, found, _ = binary
    for (folder, known), place in zip(records.items(), np.ndindex(5, 5), strict=True):
        hits, wrong, missed, _ = known.counts[-1, :, 0].sum(0)
        loss, seed = re.findall("=([a-z_0-9]+)", folder.name)
        at = found.labels.index(loss), found.seeds.index(int(seed))
        assert found.wins["iou"].values[at] == pytest.approx(hits / (hits + wrong + missed)), place
    assert [found.labels[i] for i in found.order] == ["dice", "ce_dice", "lovasz", "ce", "focal"]


def test_the_best_checkpoint_is_the_recorded_one(tmp_path, monkeypatch):
    records = make_sweep(tmp_path, monkeypatch, losses=("ce", "dice"), seeds=(1, 2))
    expected = {}
    for folder, known in records.items():
        records[folder] = dataclasses.replace(known, best=dataclasses.replace(known.best, step=200))
        expected[folder] = known.counts[1]
    comparison, found = compare(tmp_path)
    np.testing.assert_array_equal(found.counts[1, 0], expected[comparison.runs[1][0].folder])


def test_a_lead_that_is_a_matter_of_threshold(binary):
    first, second = answer(binary[2])
    assert first.startswith("No loss is surely the best: dice has the highest IoU, 0.408")
    assert re.search(
        r"0\.011 \(-0\.\d+ to \+0\.\d+\) above ce_dice, the next best, and is ahead with a confidence of \d+ %", first
    )
    assert re.search(r"lead over ce goes from \+0\.062 to \+0\.001 \(-0.*\): it was a matter of the threshold\.$", second)


def test_a_lead_that_survives(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, losses=("ce", "focal"), seeds=(1, 2, 3))
    first, second = answer(compare(tmp_path)[1])
    assert first.startswith("ce gives the best IoU")
    assert second.endswith("the difference survives.")


def test_another_leader_after_tuning_is_named(binary):
    found = binary[2]
    second = found.order[1]
    wins = found.tuning.wins

    def said(value):
        tuned = dataclasses.replace(wins, score=dataclasses.replace(wins.score, value=value))
        return answer(changed(found, tuning=changed(found.tuning, wins=tuned)))[1]

    raised = wins.score.value.copy()
    raised[second] = 0.9
    assert said(raised).endswith(f"; {found.labels[second]} then has the highest IoU, 0.900.")
    assert "then has" not in said(np.where(np.arange(len(raised)) == found.order[0], 0.9, 0.1))


def test_a_file_is_no_folder_to_write_into(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes.txt is a file: give a folder"):
        compare_runs([tmp_path], tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_first_screen_agrees_with_the_bootstrap(binary):
    records, comparison, _, out = binary
    counts = [[records[run.folder].counts[-1] for run in row] for row in comparison.runs]
    win = win_matrix(counts)
    pairs = pd.read_csv(out / "pairs.csv")
    row = pairs[(pairs.metric == "iou") & (pairs.loss == "ce") & (pairs.against == "focal")].iloc[0]
    a, b = comparison.labels.index("ce"), comparison.labels.index("focal")
    assert row[["difference", "low", "high", "better"]].tolist() == pytest.approx(
        [win.difference.value[a, b], win.difference.low[a, b], win.difference.high[a, b], win.better[a, b]]
    )
    text = (out / "report.html").read_text()
    assert f"{win.score.value[a]:.3f} <small>{win.score.low[a]:.3f} to {win.score.high[a]:.3f}</small>" in text


def test_tables_and_figures_are_there(binary):
    out = binary[3]
    names = {path.name for path in out.iterdir()}
    figures = ("ranking", "slopes", "regrets", "wins", "cross", "pareto", "curves", "alignment", "shares")
    assert {f"{name}.png" for name in figures} <= names
    tables = ("comparison", "pairs", "ranks", "measures", "classes", "scenes", "shares", "cosines", "checkpoints", "runs")
    assert {f"{name}.csv" for name in tables} <= names
    losses = pd.read_csv(out / "comparison.csv", index_col="loss")
    assert losses.loc["ce", "threshold_regret_mean"] == pytest.approx(
        losses.loc["ce", "tuned_mean"] - losses.loc["ce", "iou_mean"]
    )
    assert losses["residual_regret_mean"].min() == pytest.approx(0)
    shares = pd.read_csv(out / "shares.csv")
    assert shares.groupby(["loss", "place", "step"])["share"].sum().to_numpy() == pytest.approx(1)
    ranks = pd.read_csv(out / "ranks.csv", index_col="loss")
    assert ranks["calibration error"].idxmin() == "ce"
    assert ranks["IoU"].idxmin() == "dice"
    assert len(pd.read_csv(out / "checkpoints.csv")) == 5 * 5 * 4


def test_the_printed_table_says_what_it_holds(binary, capsys):
    say(binary[2])
    printed, iou = " ".join(capsys.readouterr().out.split()), binary[2].wins["iou"].values[binary[2].order[0]]
    assert "mean ± standard deviation over seeds" in printed
    assert f"{iou.mean():.3f} ± │" in printed
    assert f"{iou.std(ddof=1):.3f} │" in printed


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_term_without_a_gradient_has_no_cosine(binary):
    apart, row = np.where(np.eye(2), 1, np.nan), []
    for run in binary[1].runs[binary[1].labels.index("ce_dice")]:
        gradient = {place: (norms, cosines * apart) for place, (norms, cosines) in run.records.gradient.items()}
        row.append(changed(run, records=dataclasses.replace(run.records, gradient=gradient)))
    found = mean_gradients(dataclasses.replace(binary[1], runs=[row])).cosines
    assert len(found) == 2
    assert found["cosine"].isna().all()


def test_multiclass_is_tuned_on_its_sample_and_counted_anew(tmp_path, monkeypatch):
    records = make_sweep(tmp_path, monkeypatch, FOUR, losses=("ce", "dice"), seeds=(1, 2))
    for metric in ("iou", "dice"):
        comparison, found = compare(tmp_path, metric)
        np.testing.assert_array_equal(found.tuning.fixed, found.wins[metric].values)
        for i, j in np.ndindex(2, 2):
            counted = records[comparison.runs[i][j].folder].at(metric).sum(0)
            hits = (2 if metric == "dice" else 1) * counted[:, 0]
            assert found.tuning.wins.values[i, j] == pytest.approx((hits / (hits + counted[:, 1] + counted[:, 2])).mean())
    assert any(note.startswith("Not recorded, so not compared: calibration error") for note in caveats(found))
    write_report(found, tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    assert "A bias per class is tuned" in text
    assert "predicted anew" in text


def test_a_run_that_was_not_counted_at_tuned_biases_is_named(tmp_path, monkeypatch):
    records = make_sweep(tmp_path, monkeypatch, FOUR, losses=("ce", "dice"), seeds=(1, 2))
    one = tmp_path / "loss=ce,seed=2"
    best, unknown = records[one].best, records[one].best.counts.copy()
    unknown[:3] = np.nan
    records[one] = dataclasses.replace(records[one], best=dataclasses.replace(best, counts=unknown))
    notes, found = notes_of(tmp_path)
    assert f"Tuned thresholds are not compared: {one} was not counted at tuned biases" in notes
    assert found.tuning is None


def test_a_metric_that_nobody_recorded(tmp_path, monkeypatch):
    records = make_sweep(tmp_path, monkeypatch, losses=("ce", "dice"), seeds=(1, 2))
    assert compare(tmp_path, "boundary_iou")[1].metric == "boundary_iou"
    with pytest.raises(InputError, match=r"=bounday_iou: losses can't be ranked by it.*\(did you mean 'boundary_iou'"):
        measures(Binary(("a",)), ranked_by="bounday_iou")
    with pytest.raises(
        InputError, match=r"=class_ece: losses can't be ranked by it.*; take iou, dice, precision, .* or boundary_iou"
    ):
        measures(Binary(("a",)), ranked_by="class_ece")
    for folder, known in records.items():
        records[folder] = dataclasses.replace(known, best=None)
    with pytest.raises(InputError, match=r"boundary_iou: not every run recorded it; take iou, dice, precision, recall"):
        compare(tmp_path, "boundary_iou")


def notes_of(root, **options):
    found = compare(root, **options)[1]
    write_report(found, root / "out")
    page = (root / "out" / "report.html").read_text()
    notes = caveats(found)
    assert all(re.sub("['<>&]", "", note)[:40] in re.sub("&#39;|['<>]", "", page) for note in notes)
    return " ".join(notes), found


def test_one_seed_and_one_scene_are_said(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, losses=("ce", "dice"), seeds=(4,), scenes=1)
    notes, found = notes_of(tmp_path)
    assert "Only seed 4" in notes
    assert "One validation scene" in notes
    assert "how sure that is can't be said" in answer(found)[0]
    assert "ahead" not in answer(found)[0]
    assert "best is ahead" not in (tmp_path / "out" / "report.html").read_text()
    assert "not known" in answer(found)[1]


def test_no_records_are_said(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, losses=("dice", "focal"), seeds=(1, 2))

    def none(folder, head):
        raise RecordError(folder, "has no records", "train it again")

    monkeypatch.setattr("rsseg.compare.runs.load_records", none)
    notes, found = notes_of(tmp_path)
    assert "No run has records" in notes
    assert "No plain cross-entropy among the runs" in notes
    assert found.counts is None
    assert np.isfinite(found.wins["iou"].score.low).all()


def test_runs_that_diverged_are_counted_by_loss(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, losses=("ce", "dice", "focal"), seeds=(1, 2, 3))
    for name in ("loss=dice,seed=2", "loss=dice,seed=3", "loss=focal,seed=3"):
        facts = {"diverged": {"step": 7}, "finished": "2026-01-01T01:00:00+00:00", "steps": 6, "seconds": 1.0}
        (tmp_path / name / "summary.json").write_text(json.dumps(facts))
    notes, found = notes_of(tmp_path)
    assert "Runs that diverged are left out, 2 of dice, 1 of focal, such as" in notes
    assert (sorted(found.labels), found.seeds) == (["ce", "focal"], [1, 2])
    assert "it has diverged at step 7" in (tmp_path / "out" / "left_out.csv").read_text()


def test_what_went_wrong_in_runs_is_said(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, losses=("ce", "dice"), seeds=(1, 2))
    curve = tmp_path / "loss=ce,seed=2" / "metrics.csv"
    rows = pd.read_csv(curve)
    rows.loc[2, "val/loss"] = np.nan
    rows.to_csv(curve, index=False)
    other = tmp_path / "loss=dice,seed=1"
    origin = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(origin | {"git": {"commit": "c0ffee", "changed": True}}))
    summary = json.loads((other / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps(summary | {"steps": 300}))
    notes, _ = notes_of(tmp_path, keep_unfair=True)
    assert "ce, seed 2: its validation loss is NaN at step 300" in notes
    assert "dice, seed 1: stopped early, at step 300 of 400" in notes
    assert "the runs have different numbers of steps, code" in notes
    assert "uncommitted changes" in notes
    strict, found = notes_of(tmp_path)
    assert found.labels == ["ce", "dice"]
    assert found.seeds == [2]
    assert "2 runs are left out" in strict  # the changed one, and its seed of the other loss
    assert "different steps (300, the others 400)" in (tmp_path / "out" / "left_out.csv").read_text()


def test_the_best_of_many_trials_is_said_to_look_too_good(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, losses=("ce", "dice"), seeds=(1, 2))
    assert "trials of a search" not in notes_of(tmp_path)[0]
    (tmp_path / "trials.csv").touch()
    assert "trials of a search" in notes_of(tmp_path)[0]


def test_an_absent_class_is_in_no_mean(tmp_path, monkeypatch):
    records = make_sweep(tmp_path, monkeypatch, FOUR, losses=("ce", "dice"), seeds=(1, 2), absent=True)
    notes, found = notes_of(tmp_path)
    assert "Class roof does not occur in the validation scenes" in notes
    counts = records[tmp_path / "loss=ce,seed=1"].counts[-1].sum(0)
    iou = [counts[c, 0] / counts[c, :3].sum() for c in range(3)]
    assert found.wins["iou"].values[0, 0] == pytest.approx(np.mean(iou))
    assert pd.read_csv(tmp_path / "out" / "classes.csv", index_col="class").loc["roof", ["ce", "dice"]].isna().all()


def test_one_loss_has_nothing_to_be_compared_with(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, losses=("ce",), seeds=(1,))
    _, found = notes_of(tmp_path)
    assert "only one loss" in answer(found)[0]


def same_scenes(scores, scenes=8):
    """Counts ``[L, R, S, 1, 3]`` of pixels with these IoUs ``[L, R]`` in every scene."""
    iou = np.asarray(scores, dtype=float)[:, :, None, None] * np.ones((1, 1, scenes, 1))
    return np.stack([1000 * iou, 0 * iou, 1000 - 1000 * iou], axis=-1)


def ranked(found, labels, scores):
    """Findings of other losses, with these IoUs."""
    counts = same_scenes(scores)
    plain = [label == "ce" for label in labels]
    return changed(found, labels=labels, plain=plain, metric="iou", wins={"iou": win_matrix(counts)},
        tuning=tuning_of(counts, counts),
    )  # fmt: skip


A, B = [0.60, 0.60, 0.60, 0.60, 0.60], [0.58, 0.58, 0.581, 0.579, 0.58]
SCATTERED = [0.80, 0.30, 0.75, 0.35, 0.65]


def test_the_best_must_be_surely_above_every_other(binary):
    first = answer(ranked(binary[2], ["a", "b", "c"], [A, B, SCATTERED]))[0]  # c is third by mean, but may be first
    assert first.startswith("No loss is surely the best: a has the highest IoU, 0.600")
    assert "above b, the next best" in first
    assert "but only" not in first  # b is surely behind
    assert first.endswith("; not told apart from it, when all are compared: c.")
    assert answer(ranked(binary[2], ["a", "b"], [A, B]))[0].startswith("a gives the best IoU: 0.600")


def test_the_leader_is_held_against_plain_cross_entropy(binary):
    scores = [A, B, [0.5, 0.5, 0.501, 0.499, 0.5]]
    assert "lead over ce goes" in answer(ranked(binary[2], ["dice", "focal", "ce"], scores))[1]
    assert "lead over focal goes" in answer(ranked(binary[2], ["dice", "focal", "ce sampler=Balanced"], scores))[1]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (0.10, 0.09, "lead over ce goes from +0.100 to +0.090 (.*): the difference survives."),
        (0.10, 0.05, "the difference survives."),
        (0.10, 0.04, "a part survives, but most of it was a matter of the threshold."),
        (
            0.10,
            -0.04,
            "lead over ce goes from +0.100 to -0.040 (.*): the order turns round; ce then has the highest",
        ),
        (-0.10, 0.02, "difference to ce goes from -0.100 to +0.020 (.*): only tuning puts it ahead."),
        (-0.10, -0.08, "difference to ce goes from -0.100 to -0.080 (.*): tuned, it is behind; ce then has"),
        (0.0, 0.05, "only tuning puts it ahead."),
    ],
)
def test_what_tuning_makes_of_a_lead_that_is_sure(binary, before, after, said):
    ahead = [[0.6 + 0.001 * x for x in (0, 1, 0, -1, 0)], [0.5] * 5]
    fixed, tuned = (same_scenes([[0.5 + gap + 0.001 * x for x in (0, 1, 0, -1, 0)], [0.5] * 5]) for gap in (before, after))
    win = {"iou": win_matrix(fixed), "boundary_iou": win_matrix(same_scenes(ahead))}
    found = changed(ranked(binary[2], ["dice", "ce"], ahead), metric="boundary_iou", wins=win, tuning=tuning_of(fixed, tuned),
    )  # fmt: skip
    assert re.search(re.escape(said).replace(r"\(\.\*\)", r"\(.*\)"), answer(found)[1])


SURE, UNSURE, NONE, UNKNOWN = (0.10, 0.07, 0.13), (0.10, -0.02, 0.22), (0.0, -0.03, 0.03), (0.04, np.nan, np.nan)
LESS, MORE, SAME = (-0.10, -0.14, -0.06), (0.10, 0.06, 0.14), (-0.03, -0.08, 0.02)


@pytest.mark.parametrize(
    ("before", "after", "moved", "said"),
    [
        (SURE, NONE, LESS, "it was a matter of the threshold"),
        (SURE, UNSURE, SAME, "what is left of it may be chance"),
        (UNSURE, NONE, LESS, "neither can be told from zero"),  # there was no difference to be lost
        (UNSURE, SURE, SAME, "the difference survives"),
        (NONE, SURE, SAME, "tuned, it is ahead"),
        ((-0.10, -0.13, -0.07), NONE, MORE, "tuning makes up for it"),
        ((-0.10, -0.13, -0.07), NONE, SAME, "what is left of it may be chance"),
        (SURE, UNKNOWN, UNKNOWN, "what remains can't be told from chance"),
    ],
)
def test_tuning_is_held_responsible_only_for_what_it_surely_changes(before, after, moved, said):
    assert verdict(before, after, moved) == said


def test_many_losses_must_be_further_behind_to_be_told_apart(binary):
    """At 97.8 % one rival alone is told apart; among five that all look alike it is not."""
    found = ranked(binary[2], list("abcdef"), [A, *[SCATTERED] * 5])
    better = np.full((6, 6), 0.5)
    better[0, 1:] = [0.5, 0.978, 0.978, 0.999, 0.978]
    found = changed(found, wins={"iou": changed(found.wins["iou"], better=better)})
    assert answer(found)[0].endswith("; not told apart from it, when all are compared: b, c, d, f.")


def rate_sweep(root, monkeypatch, rates, good):
    """Runs whose rate `good` is best on the search seeds; `rates` by loss."""
    kept = {}
    for loss, tried in rates.items():
        for rate in tried:
            for seed in (1, 2, 1001):
                folder = root / f"{loss},{rate},{seed}"
                kept[folder] = make_records(BINARY, loss, seed)
                write_run(folder, BINARY, loss, seed, kept[folder], [f"optimizer.lr={rate}"], optimizer={"lr": rate})
                summary = json.loads((folder / "summary.json").read_text()) | {"iou": 0.6 if rate == good else 0.5}
                (folder / "summary.json").write_text(json.dumps(summary))
    monkeypatch.setattr("rsseg.compare.runs.load_records", lambda folder, head: kept[folder])


@pytest.mark.parametrize(("good", "edge"), [(0.001, "smallest"), (0.01, None), (0.1, "largest")])
def test_a_rate_at_the_edge_of_the_search_is_said(tmp_path, monkeypatch, good, edge):
    rate_sweep(tmp_path, monkeypatch, dict.fromkeys(("ce", "dice"), (0.001, 0.01, 0.1)), good)
    comparison, found = compare(tmp_path)
    notes = " ".join(caveats(found))
    for loss in ("ce", "dice"):
        assert (f"{loss}: the search seeds chose learning rate {good:g}, the {edge} tried" in notes) == (edge is not None)
    assert "Unequal search" not in notes
    assert "recipes" not in notes
    assert "chosen by mean IoU" in dict(protocol(comparison, "IoU"))["Learning rates"]


def test_an_unequal_search_is_said(tmp_path, monkeypatch):
    rate_sweep(tmp_path, monkeypatch, {"ce": (0.01,), "dice": (0.001, 0.01, 0.1)}, 0.01)
    assert "Unequal search: not every loss tried the same learning rates (ce 1, dice 3)" in " ".join(
        caveats(compare(tmp_path)[1])
    )


def test_two_heads_and_two_platforms_are_said(tmp_path, monkeypatch):
    records = make_records(BINARY, "ce", 1)
    for loss in ("ce", "dice"):
        model = {"encoder": "resnet18", "heads": {"mask": {}, "water": {}}}
        write_run(tmp_path / loss, BINARY, loss, 1, records, model=model)
    monkeypatch.setattr("rsseg.compare.runs.load_records", lambda folder, head: records)
    path = tmp_path / "dice" / "run.json"
    path.write_text(path.read_text().replace("Linux", "Windows"))
    comparison, found = compare(tmp_path)
    notes = " ".join(caveats(found))
    assert "The runs have 2 heads, mask, water: mask is compared, head=... compares another." in notes
    assert "different platforms" in notes
    assert dict(protocol(comparison, "IoU"))["Made on"] == "Python 3.11.0 on Linux, Python 3.11.0 on Windows"


@pytest.mark.parametrize(
    ("design", "unfair", "said"),
    [
        ([], [], "initial weights, windows, augmentation"),
        (["sampler._target_"], [], "initial weights, augmentation; not alike: windows (sampler._target_)"),
        (
            ["augment.paste.p"],
            ["batch_size"],
            "initial weights; not alike: windows (batch_size), augmentation (augment.paste.p)",
        ),
        ([], ["model.weights"], "windows, augmentation; not alike: initial weights (model.weights)"),
        ([], ["optimizer.lr"], "initial weights, windows, augmentation"),
        (
            [],
            ["data or splits (training)"],
            "augmentation; not alike: initial weights (data or splits (training)), windows (data or s",
        ),
        ([], ["numbers of steps"], "initial weights, augmentation; not alike: windows (numbers of steps)"),
        (["sampler.keep"], ["code"], "not known: the runs were made by different code"),
    ],
)
def test_what_a_seed_fixes_is_derived(binary, design, unfair, said):
    comparison = dataclasses.replace(binary[1], design=design, unfair=unfair)
    found = changed(binary[2], comparison=comparison)
    assert dict(protocol(comparison, "IoU"))["Alike per seed"].startswith(said)
    notes = " ".join(caveats(found))
    assert ("The rows are recipes" in notes) == bool(design)
    assert ("kept because unfair=keep asked for it" in notes) == bool(unfair)


def test_losses_of_the_panel_are_matched_by_name(tmp_path, monkeypatch):
    records = make_sweep(tmp_path, monkeypatch, losses=("ce", "dice"), seeds=(1, 2))
    expected = compare(tmp_path)[1].values
    folder = tmp_path / "loss=ce,seed=2"  # not the first
    known = records[folder]
    records[folder] = dataclasses.replace(known, panel=known.panel[::-1], values=known.values[:, ::-1])
    np.testing.assert_array_equal(compare(tmp_path)[1].values, expected)
    records[folder] = dataclasses.replace(known, panel=["dice", "ce"], values=known.values[:, [1, 0]])
    found = compare(tmp_path)[1]
    assert found.panel == ["ce", "dice"]
    np.testing.assert_array_equal(found.values, expected[..., :2])


def test_the_cross_map_shows_the_ranks(binary):
    """Ranks counted one by one: how many losses of the same seed are better, ties by halves."""
    found = binary[2]
    figure = draw_cross(found)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    shown = np.array([float(text.get_text()) for text in figure.axes[0].texts]).reshape(len(names), len(found.labels)).T
    for column, name in enumerate(names):
        loss = name.removeprefix("loss ")
        key = next((key for key, measure in MEASURES.items() if measure.label == name), None)
        values = found.values[..., found.panel.index(loss)] if key is None else found.wins[key].values
        cost = -values if key and MEASURES[key].higher_is_better else values
        better = (cost[None] < cost[:, None]).sum(1) + ((cost[None] == cost[:, None]).sum(1) - 1) / 2 + 1
        assert shown[:, column] == pytest.approx(better.mean(1)[found.order], abs=5e-3), name
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == [found.labels[i] for i in found.order]


def test_regret_bars_grow_from_zero_by_their_sign(binary):
    found = ranked(binary[2], ["a", "b"], [A, B])
    found = changed(
        found,
        tuning=tuning_of(same_scenes([A, B]), same_scenes([[0.55] * 5, [0.70] * 5])),
        selection=np.array([[0.02] * 5, [-0.03] * 5]),
    )
    (axis,) = draw_regrets(found).axes
    losses = [text.get_text() for text in axis.get_yticklabels()]
    bars = {
        bar.get_label(): {loss: (b.get_x(), b.get_width()) for loss, b in zip(losses, bar, strict=True)}
        for bar in axis.containers
    }
    assert bars["residual"]["a"] == pytest.approx((0, 0.15))  # 0.70 - 0.55
    assert bars["threshold"]["a"] == pytest.approx((0, -0.05))  # tuning did harm: to the left
    assert bars["selection (apart)"]["a"] == pytest.approx((0, 0.02))  # of another checkpoint: not added to what is lost
    assert bars["residual"]["b"] == pytest.approx((0, 0))
    assert bars["threshold"]["b"] == pytest.approx((0, 0.12))
    assert bars["selection (apart)"]["b"] == pytest.approx((0, -0.03))


def with_long_names(found, number=12):
    """The same losses over and over, with the names of recipes."""
    again = np.arange(number) % len(found.labels)
    counts = found.counts[again]
    wins = {name: dataclasses.replace(win, values=win.values[again]) for name, win in found.wins.items()}
    grid = [found.comparison.runs[i] for i in again]
    return changed(found, labels=[f"focal_dice sampler=Balanced augment.p=Paste{i}" for i in range(number)], counts=counts,
        comparison=changed(found.comparison, runs=grid), wins=wins | {"iou": win_matrix(counts)},
        tuning=tuning_of(counts, counts[::-1]), values=found.values[again], selection=None, tau=found.tau[again],
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in ("shares", "gains")])
@pytest.mark.parametrize("number", [5, 12])
def test_long_names_neither_leave_a_figure_nor_cover_one_another(binary, monkeypatch, name, number):
    found = with_long_names(binary[2], number)
    with mpl.rc_context(RULES):
        figure = FIGURES[name](found)
        texts, draw = [], mpl.text.Text.draw
        monkeypatch.setattr(mpl.text.Text, "draw", lambda text, to: (texts.append(text), draw(text, to))[1])
        FigureCanvasAgg(figure).draw()
    texts = [text for text in texts if text.get_visible() and text.get_text().strip()]
    boxes = [mpl.text.Text.get_window_extent(text) for text in texts]  # of an annotation: without its arrow
    for text, box in zip(texts, boxes, strict=True):
        assert min(box.x0, box.y0, figure.bbox.x1 - box.x1, figure.bbox.y1 - box.y1) > -2, text
    for (a, one), (b, other) in combinations(zip(texts, boxes, strict=True), 2):
        shared = mpl.transforms.Bbox.intersection(one, other)
        assert shared is None or min(shared.width, shared.height) < 2, (a, b)


def test_steps_are_counted_as_records_count_them(binary):
    """Lightning counts the first step as 0 in ``metrics.csv``; after 100 steps it writes 99."""
    found = binary[2]
    assert set(checkpoints(found)["step"]) == {100, 200, 300, 400}
    axis = draw_curves(found).axes[0]
    assert {tuple(line.get_xdata()) for line in axis.lines} == {(100, 200, 300, 400)}


def test_names_may_hold_what_matplotlib_takes_for_formulas(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, losses=("ce", "dice"), seeds=(1, 2))
    for path in tmp_path.glob("loss=ce*/run.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"loss": "$a_{$"}))
    assert "$a_{$" in notes_of(tmp_path)[1].labels


class Outside(HTMLParser):
    """Everything that a page would fetch or run."""

    def __init__(self):
        super().__init__()
        self.found, self.images = [], 0

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.images += tag == "img"
        self.found += [given[a] for a in ("src", "href") if a in given and not given[a].startswith(("data:", "#"))]
        self.found += [tag] * (tag in ("script", "iframe", "object"))


def test_the_page_needs_nothing_else(binary):
    page, text = Outside(), (binary[3] / "report.html").read_text()
    page.feed(text)
    assert page.found == []
    assert page.images == 9
    assert "url(" not in text


def test_names_are_text(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, losses=("ce", "dice"), seeds=(1,))
    for path in tmp_path.glob("*/run.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"loss": f"<script>{path.parent.name[5]}"}))
    notes_of(tmp_path)
    assert "<script>" not in (tmp_path / "out" / "report.html").read_text()


def test_spread_keeps_the_order_and_the_gap():
    places = np.random.default_rng(0).random(12)
    moved = spread(places, 0.1)
    assert (np.argsort(moved) == np.argsort(places)).all()
    assert np.diff(np.sort(moved)).min() > 0.1 - 1e-9
    np.testing.assert_allclose(spread(np.array([3.0, 1.0]), 0.5), [3, 1])


def looked_at(page, width):
    """What Chromium makes of a page: its complaints, the images' natural sizes, how far it overflows sideways, how far each
    table scrolls to the right, and how far its first column has moved then.
    """
    script = (
        "<script>addEventListener('load', () => { const page = frames[0].document, left = e => e.getBoundingClientRect().left;"
        "const boxes = [...page.querySelectorAll('.scroll')]; boxes.forEach(b => b.scrollLeft = 1000);"
        "document.body.dataset.seen = JSON.stringify({scrolled: boxes.map(b => b.scrollLeft),"
        "moved: boxes.map(b => left(b.querySelector('td')) - left(b)),"
        "sizes: [...page.images].map(i => i.naturalWidth * i.naturalHeight),"
        "over: page.documentElement.scrollWidth - frames[0].innerWidth})})</script>"
    )
    frame = f'<iframe style="border: 0; width: {width}px; height: 900px" srcdoc="{html.escape(page.read_text())}"></iframe>'
    copy = page.with_name(f"looked_at_{width}.html")  # in a frame, as Chromium has no window as narrow as a phone
    copy.write_text(f"<!doctype html><body>{frame}{script}</body>")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=1300,1000"]
    words += ["--virtual-time-budget=5000", "--dump-dom", f"--user-data-dir={page.parent / 'profile'}", copy.as_uri()]
    done = subprocess.run([BROWSER, *words], capture_output=True, text=True, timeout=120)
    seen = json.loads(re.search(r'data-seen="([^"]*)"', done.stdout)[1].replace("&quot;", '"'))
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], seen


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_draws_it(binary, width):
    complaints, seen = looked_at(binary[3] / "report.html", width)
    assert complaints == []
    assert len(seen["sizes"]) == 9
    assert min(seen["sizes"]) > 10_000
    assert seen["over"] <= 0  # tables scroll in themselves
    assert (max(seen["scrolled"]) > 0) == (width < 400)
    assert np.abs(seen["moved"]).max() < 1  # the names stay


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
def test_a_browser_would_tell(binary, tmp_path):
    """The check above sees broken pictures and scripts that fail."""
    text = (binary[3] / "report.html").read_text()
    broken = text.replace("data:image/svg+xml;base64,", "data:image/svg+xml;base64,AAAA", 1)
    (tmp_path / "broken.html").write_text(broken.replace("</body>", "<script>console.error('oh')</script></body>"))
    complaints, seen = looked_at(tmp_path / "broken.html", 800)
    assert min(seen["sizes"]) == 0
    assert any("oh" in line for line in complaints)
