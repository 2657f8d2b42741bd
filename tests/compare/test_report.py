"""What the report says, and that a browser shows it."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
from rsseg.compare.scores import compare as compare_sums
from rsseg.compare.scores import measures, of_tuning
from run_folders import BINARY, FOUR, changed, make_records, make_sweep, write_run

from rsseg.compare.findings import Findings, Tuning, mean_gradients
from rsseg.compare.records import RecordError
from rsseg.compare.report import protocol, say, write_report
from rsseg.compare.selection import gather
from rsseg.compare.words import answer, caveats, verdict
from rsseg.config.plan import Plan
from rsseg.contract import InputError
from rsseg.metrics import metrics
from rsseg.run import compare as compare_runs
from rsseg.task import Binary

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
        best = known.quality + (known.steps == 200)[:, None]
        records[folder] = dataclasses.replace(known, quality=best, crossed=None)
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
    crossed, unknown = records[one].crossed, records[one].crossed.counts.copy()
    unknown[1:3] = np.nan
    records[one] = dataclasses.replace(records[one], crossed=dataclasses.replace(crossed, counts=unknown))
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
        records[folder] = dataclasses.replace(known, crossed=None)
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
    with pytest.raises(InputError, match=r"stopped early +no +3\n +at step 300 +1: (?s:.*)  code "):
        notes_of(tmp_path)
    notes, _ = notes_of(tmp_path, allow_different=True)
    assert "ce, seed 2: its validation loss is NaN at step 300" in notes
    assert "dice, seed 1: stopped early, at step 300 of 400" in notes
    assert "the runs have different stopped early, code" in notes
    assert "uncommitted changes" in notes


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
    """Runs whose rate `good` is best on the search seeds, and their plan; `rates` by loss."""
    kept, runs = {}, {}
    for loss, tried in rates.items():
        for rate in tried:
            for seed in (1, 2, 1001):
                folder = root / f"{loss},{rate},{seed}"
                kept[folder] = make_records(BINARY, loss, seed)
                runs[folder] = {"loss": loss, "optimizer.lr": str(rate), "seed": str(seed)}
                write_run(folder, BINARY, loss, seed, kept[folder], [f"optimizer.lr={rate}"], optimizer={"lr": rate})
                summary = json.loads((folder / "summary.json").read_text()) | {"iou": 0.6 if rate == good else 0.5}
                (folder / "summary.json").write_text(json.dumps(summary))
    Plan(runs, {}).write(root)
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


