"""What the report says, and that a browser shows it."""

import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from run_folders import FOUR, make_sweep

from rsseg.alignment.analyse import analyse
from rsseg.alignment.bootstrap import win_matrix
from rsseg.alignment.counts import pooled
from rsseg.alignment.fair import gather
from rsseg.alignment.report import write_report
from rsseg.alignment.report.style import spread
from rsseg.alignment.report.words import answer, caveats
from rsseg.contract import InputError

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


def compare(root, metric="iou", **options):
    comparison = gather([root], **options)
    return comparison, analyse(comparison, metric)


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    """Records by folder, the comparison, what was found, and the folder of the report."""
    root = tmp_path_factory.mktemp("binary")
    with pytest.MonkeyPatch.context() as patch:
        records = make_sweep(root, patch)
        comparison, found = compare(root)
    write_report(comparison, found, root / "comparison")
    return records, comparison, found, root / "comparison"


def test_scores_are_those_of_the_confusion_matrices(binary):
    records, _, found, _ = binary
    for (folder, known), place in zip(records.items(), np.ndindex(5, 5), strict=True):
        hits, wrong, missed = known.counts[-1, :, 0].sum(0)
        loss, seed = re.findall("=([a-z_0-9]+)", folder.name)
        at = found.labels.index(loss), found.seeds.index(int(seed))
        assert found.measures["iou"][at] == pytest.approx(hits / (hits + wrong + missed)), place
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
    assert "exploratory" not in first
    assert re.search(r"lead over ce goes from \+0\.062 to \+0\.001 .*no difference that could be told from zero", second)


def test_a_lead_that_survives(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, losses=("ce", "focal"), seeds=(1, 2, 3))
    first, second = answer(compare(tmp_path)[1])
    assert first.startswith("ce gives the best IoU")
    assert "With 3 seeds this is exploratory" in first
    assert second.endswith("the difference survives.")


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


def test_multiclass_is_tuned_on_its_sample_and_counted_anew(tmp_path, monkeypatch):
    records = make_sweep(tmp_path, monkeypatch, FOUR, losses=("ce", "dice"), seeds=(1, 2))
    for metric in ("iou", "dice"):
        comparison, found = compare(tmp_path, metric)
        assert not found.estimated
        np.testing.assert_array_equal(found.fixed, found.counts)
        for i, j in np.ndindex(2, 2):
            counted = getattr(records[comparison.runs[i][j].folder].best.crossfit, metric)[:, 0]
            hits = counted.diagonal(axis1=1, axis2=2)
            expected = np.stack([hits, counted.sum(1) - hits, counted.sum(2) - hits], axis=-1)
            np.testing.assert_array_equal(found.tuned[i, j], expected)
    assert any(note.startswith("Not recorded, so not compared: calibration error") for note in caveats(comparison, found))
    write_report(comparison, found, tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    assert "A bias per class is tuned" in text
    assert "predicted anew" in text


def test_records_from_before_multiclass_was_counted_anew_are_estimated_and_named(tmp_path, monkeypatch):
    records = make_sweep(tmp_path, monkeypatch, FOUR, losses=("ce", "dice"), seeds=(1, 2))
    exact = compare(tmp_path)[1].tuned
    old = tmp_path / "loss=ce,seed=2"
    records[old] = dataclasses.replace(records[old], best=dataclasses.replace(records[old].best, crossfit=None))
    notes, found = notes_of(tmp_path)
    assert f"1 of 4 runs, such as {old}, have no counts at tuned biases" in notes
    assert "estimated from the recorded samples" in (tmp_path / "out" / "report.html").read_text()
    assert found.estimated
    assert found.tuned.sum() != exact.sum()  # of all runs: an estimate is not held against a count
    assert pooled(found.tuned) == pytest.approx(pooled(exact), abs=0.02)
    sample = records[old].best.sample
    broken = dataclasses.replace(records[old].best, sample=sample._replace(logits=sample.logits * torch.nan))
    records[old] = dataclasses.replace(records[old], best=broken)
    notes, found = notes_of(tmp_path)
    assert found.tuned is None
    assert "Not recorded, so not compared: " in notes
    assert "tuned thresholds" in notes


def test_a_metric_that_nobody_recorded(tmp_path, monkeypatch):
    records = make_sweep(tmp_path, monkeypatch, losses=("ce", "dice"), seeds=(1, 2))
    assert compare(tmp_path, "boundary_iou")[1].metric == "boundary_iou"
    with pytest.raises(InputError, match=r"metric=bounday_iou: nobody recorded it \(did you mean 'boundary_iou'\?\)"):
        compare(tmp_path, "bounday_iou")
    for folder, known in records.items():
        records[folder] = dataclasses.replace(known, best=None)
    with pytest.raises(InputError, match=r"boundary_iou: nobody recorded it.*iou, dice"):
        compare(tmp_path, "boundary_iou")


def notes_of(root, **options):
    comparison, found = compare(root, **options)
    write_report(comparison, found, root / "out")
    page = (root / "out" / "report.html").read_text()
    notes = caveats(comparison, found)
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
        raise InputError("none")

    monkeypatch.setattr("rsseg.alignment.runs.load_records", none)
    notes, found = notes_of(tmp_path)
    assert "No run has records" in notes
    assert "No plain cross-entropy among the runs" in notes
    assert found.counts is None
    assert np.isfinite(found.wins["iou"].score.low).all()


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
    assert "the runs have different code" in notes
    assert "uncommitted changes" in notes
    strict, found = notes_of(tmp_path)
    assert found.labels == ["ce", "dice"]
    assert found.seeds == [2]
    assert "2 runs are left out" in strict  # the changed one, and its seed of the other loss
    assert "different code" in (tmp_path / "out" / "left_out.csv").read_text()


def test_an_absent_class_is_in_no_mean(tmp_path, monkeypatch):
    records = make_sweep(tmp_path, monkeypatch, FOUR, losses=("ce", "dice"), seeds=(1, 2), absent=True)
    notes, found = notes_of(tmp_path)
    assert "Class roof does not occur in the validation scenes" in notes
    counts = records[tmp_path / "loss=ce,seed=1"].counts[-1].sum(0)
    iou = [counts[c, 0] / counts[c].sum() for c in range(3)]
    assert found.measures["iou"][0, 0] == pytest.approx(np.mean(iou))
    assert pd.read_csv(tmp_path / "out" / "classes.csv", index_col="class").loc["roof", ["ce", "dice"]].isna().all()


def test_one_loss_has_nothing_to_be_compared_with(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, losses=("ce",), seeds=(1,))
    _, found = notes_of(tmp_path)
    assert "only one loss" in answer(found)[0]


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
    """What Chromium makes of a page: its complaints, the images' natural widths, and how far it overflows sideways."""
    script = (
        "<script>addEventListener('load', () => document.body.dataset.seen = JSON.stringify({"
        "sizes: [...document.images].map(i => i.naturalWidth * i.naturalHeight),"
        "over: document.documentElement.scrollWidth - innerWidth}))</script></body>"
    )
    copy = page.with_name(f"looked_at_{width}.html")
    copy.write_text(page.read_text().replace("</body>", script))
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--window-size={width},900"]
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
