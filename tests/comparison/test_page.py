"""The report as a page: what its tables say, that it needs nothing else, and that a browser shows it."""

import dataclasses
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from run_folders import BINARY, FOUR, changed, made_comparison, made_run, make_records, make_sweep, of_label, steady

from rsseg.comparison.caveats import caveats
from rsseg.comparison.findings import Findings
from rsseg.comparison.report import protocol, ranking, ranking_note, render, say, shown, write_report
from rsseg.comparison.runs import LeftOut
from rsseg.comparison.selection import gather
from rsseg.comparison.style import BLUE, RED, TINTS
from rsseg.comparison.tables import all_tables
from rsseg.comparison.words import answer, number, percent, span, statistics
from rsseg.metrics import metrics
from rsseg.task import Multilabel

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    """What was found of a made-up sweep, its report's folder, and the page."""
    root = tmp_path_factory.mktemp("binary")
    with pytest.MonkeyPatch.context() as patch:
        make_sweep(root, patch, BINARY, seeds=(1, 2, 3))
        found, out = Findings(gather([root])), root / "comparison"
    return found, out, write_report(found, out).read_text()


def test_tables_and_figures_are_beside_the_page(binary):
    names = {path.name for path in binary[1].iterdir()}
    figures = ("forest", "regrets", "pairs", "measures", "curves", "shares")
    assert {f"{name}.png" for name in figures} | {f"{name}.csv" for name in all_tables(binary[0])} <= names
    assert "alignment.png" not in names  # of four validations there is no rank correlation


def plain(text):
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)))


def test_the_first_screen_is_all_that_is_open(binary):
    found, _, page = binary
    first = page[page.index("<body>") : page.index("<details>")]
    assert "<details open" not in page
    for sentence in [*answer(found), *statistics(found), *caveats(found)]:
        assert sentence in plain(first)
    assert re.findall(r'<figure id="(\w+)"', first) == ["forest"]
    assert "details::details-content { content-visibility: visible" in page  # what is folded is printed


def table_of(found):
    columns, rows, _ = ranking(found, all_tables(found)["comparison"])
    return [dict(zip([column.text for column in columns], row, strict=True)) for row in rows]


def test_the_table_of_losses(binary):
    found = binary[0]
    rows, chances = table_of(found), found.chances
    assert [row["loss"].text for row in rows] == [found.labels[i] for i in found.advised.order]
    for i, row in zip(found.advised.order, rows, strict=True):
        for estimates, score, behind in (
            (found.ranked, "IoU", "behind the best"),
            (found.tuned, "IoU tuned", "behind the best, tuned"),
        ):
            value, *ends = estimates.score.at(i)
            assert row[score][::2] == (number(value), span(*ends))
            value, *ends = estimates.lead().at(estimates.order[0], i)
            assert row[behind].text == ("" if i == estimates.order[0] else number(value))
            assert row[behind].kind == ("worse" if ends[0] > 0 else "")
        assert row["gained by tuning"].text == number(found.gained.value[i], sign=True)
        used = ", tuned" * found.tune
        assert row[f"probability of being the best{used}"].text == percent(chances.best[i])
        assert row[f"expected on new areas{used}"].text == number(chances.mean[i])
        assert row["best checkpoint is the last"].text == "3 of 3"
        assert row["time"].text == "38 s"  # of three runs of 12.5 s


def test_trouble_is_in_the_row_of_its_loss():
    found = of_label(steady([0.6, 0.5]), failed={"dice": 2}, labels=["ce", "dice"])
    found.collapsed = np.array([[False] * 5, [True] * 3 + [False] * 2])
    first, second = table_of(found)
    assert (first["runs"], second["runs"]) == (("5", "", ""), ("5", "worse", "2 failed, 3 collapsed"))


def test_baselines_follow_the_losses():
    found = of_label(steady([0.6, 0.5]), labels=["ce", "dice"])
    last = table_of(changed(found, baselines={"all road": 0.123}))[-1]
    assert [cell.text for cell in last.values() if cell.text] == ["all road", "0.123"]


@pytest.mark.parametrize(
    ("seeds", "said"), [(1, "No intervals"), (2, "tell no losses apart"), (3, "hold for all pairs at once")]
)
def test_what_intervals_there_are_is_said(seeds, said):
    found = of_label(steady([0.6, 0.4], seeds=seeds), labels=["ce", "dice"])
    assert said in ranking_note(found)
    (_, second), chance = table_of(found), "probability of being the best"
    assert (chance in second) == (seeds > 2)
    cell = second["behind the best"]
    assert (cell.kind, bool(cell.detail)) == (("worse", True) if seeds > 2 else ("", False))


def test_areas_and_classes_without_are_said():
    found = of_label(steady([0.6, 0.4]), labels=["ce", "dice"], groups=list("aabbccdd"))
    assert "8 scenes in 4 independent areas" in ranking_note(found)
    assert "present without road;" not in ranking_note(found)
    two = Multilabel(("building", "road", "water"))
    assert "classes present without building." in ranking_note(
        changed(found, without=["building"], task=two, metrics=metrics(two, ["building"]))
    )


def test_blocks_are_not_called_independent():
    for groups, said in ((None, "; 8 blocks, each"), (list("aabbccdd"), "; 8 scenes in 4 areas, each")):
        found = of_label(steady([0.6, 0.4]), labels=["ce", "dice"], groups=groups)
        for run in found.comparison.all_runs:
            run.config.dataset["source"] = {"split": {"blocks": 64, "train": 0.7, "val": 0.3}}
        assert said in ranking_note(found)
        assert "expected on other parts of these images" in table_of(found)[0]


def test_captions_name_the_colours_that_are_drawn(binary):
    page = render(binary[0], all_tables(binary[0]), {"pairs": "data:,"})
    for colour, name in ((BLUE, "Pale blue: surely better"), (RED, "pale orange: surely worse")):
        red, green, blue = (int(TINTS[colour][i : i + 2], 16) for i in (1, 3, 5))
        assert (blue > green > red) if colour == BLUE else (red > green > blue)
        assert name in page


def test_a_mean_over_scenes_says_of_how_many():
    missing = steady([0.6, 0.4])
    found = of_label(missing, labels=["ce", "dice"])
    assert "mean over" not in ranking_note(found).partition(";")[2]  # one class, pooled over scenes
    per_scene = Findings(found.comparison, "scene_iou")
    assert f"then over the {len(found.scenes)} of {len(found.scenes)} scenes that have a score" in ranking_note(per_scene)
    for run in found.comparison.all_runs:
        run.records.chosen[:, 0] = 0  # the first scene holds nothing
    assert "then over the 7 of 8 scenes" in ranking_note(Findings(found.comparison, "scene_iou"))


@pytest.mark.parametrize(("metric", "mean"), [("iou", True), ("scene_dice", True), ("boundary_iou", True), ("kappa", False)])
def test_a_mean_over_classes_is_called_one(metric, mean):
    four = [[made_run(loss, seed, make_records(FOUR, loss, seed)) for seed in (1, 2)] for loss in ("ce", "dice")]
    note = ranking_note(Findings(made_comparison(four), metric))
    assert ("; mean over the classes present" in note) == mean


def test_the_printed_table_has_the_interval_that_decides(binary, capsys):
    found = binary[0]
    say(found, all_tables(found)["comparison"])
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "behind" in printed
    assert all(label in printed for label in found.labels)


def test_each_reason_why_runs_are_left_out_is_printed_once(binary, caplog):
    reasons = [
        ("a", "it has no head b", "compare a"),
        ("c", "it has no head b", "compare c"),
        ("d", "it has no head b", "compare c"),
    ]
    left = [LeftOut(Path(run), why, remedy) for run, why, remedy in reasons]
    found = changed(binary[0], comparison=dataclasses.replace(binary[0].comparison, left_out=left))
    say(found, all_tables(binary[0])["comparison"])
    assert [message for message in caplog.messages if "left out:" in message][:2] == [
        "a is left out: it has no head b; compare a.",
        "c and 1 more are left out: it has no head b; compare c.",
    ]


def test_classes_have_a_table_where_there_are_two(binary, tmp_path, monkeypatch):
    assert "IoU per class" not in binary[2]
    assert "Classes and scenes" not in binary[2]
    make_sweep(tmp_path, monkeypatch, FOUR, losses=("ce", "dice"), seeds=(1, 2), scenes=4)
    found = Findings(gather([tmp_path]))
    page = render(found, all_tables(found), figures={})
    table = page[page.index("IoU per class") :]
    roof = re.search(r'<td class="text">roof</td>(.*?)</tr>', table, re.DOTALL)[1]
    expected = [found.metrics["iou/roof"](found.counts[i]).mean() for i in found.order]
    assert re.findall(r"<td>(0\.\d+)</td>", roof) == [f"{x:.3f}" for x in expected]
    assert 'class="worse"' not in page  # two seeds


def test_numbers_are_rounded_and_what_is_not_known_is_a_dash():
    table = shown(pd.DataFrame({"name": ["a", "b"], "pixels": [1234567, 8], "score": [0.12345, np.nan]}))
    assert [[cell.text for cell in row] for row in table.rows] == [["a", "1\u202f234\u202f567", "0.123"], ["b", "8", "-"]]
    assert [column.kind for column in table.columns] == ["text", "", ""]


@pytest.mark.parametrize(
    ("design", "different", "said"),
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
            ["training scenes or labels"],
            "augmentation; not alike: initial weights (training scenes or labels), windows (training s",
        ),
        ([], ["stopped early"], "initial weights, augmentation; not alike: windows (stopped early)"),
        (["sampler.keep"], ["code of rsseg"], "not known: the runs were made by different code"),
    ],
)
def test_what_a_seed_fixes_is_derived(binary, design, different, said):
    comparison = dataclasses.replace(binary[0].comparison, design=design, different=different)
    assert dict(protocol(comparison, "IoU", "scored"))["Alike per seed"].startswith(said)


def test_the_protocol_names_what_was_searched_and_every_platform(binary):
    comparison = binary[0].comparison
    other = changed(comparison.runs[0][0], origin={**comparison.runs[0][0].origin, "platform": "Windows"})
    rows = [[other, *comparison.runs[0][1:]], *comparison.runs[1:]]
    found = dict(protocol(dataclasses.replace(comparison, runs=rows, rates={"ce": (0.01, [0.001, 0.01])}), "IoU", "scored"))
    assert found["Made on"] == "Python 3.11.0 on Windows, Python 3.11.0 on Linux"
    assert found["Learning rates"].startswith("chosen by mean IoU")
    assert found["Learning rates"].endswith("ce: 0.01 of 0.001, 0.01")


def test_names_may_hold_what_matplotlib_takes_for_formulas_and_what_pages_take_for_tags(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, losses=("ce", "dice"), seeds=(1, 2))
    for path in tmp_path.glob("*/run.json"):
        name = "$a_{$" if "loss=ce" in path.parent.name else "<script>&"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"loss": name}))
    found = Findings(gather([tmp_path]))
    page = write_report(found, tmp_path / "out").read_text()
    assert {"$a_{$", "<script>&"} == set(found.labels)
    assert "<script>" not in page
    assert "&lt;script&gt;&amp;" in page


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


def test_the_page_needs_nothing_else_and_is_small(binary):
    parser, page = Outside(), binary[2]
    parser.feed(page)
    assert parser.found == []
    assert parser.images == 6
    assert "url(" not in page
    assert len(re.sub(r'"data:[^"]*"', "", page)) < 40_000
    assert len(page) < 1_000_000


def looked_at(page, width):
    """What Chromium makes of a page with all its parts open: its complaints, the images' natural sizes, how far it overflows
    sideways, how far each table scrolls to the right, how far its first column has moved then, and how many figures stand
    beside another one.
    """
    script = (
        "<script>addEventListener('load', () => { const page = frames[0].document, at = e => e.getBoundingClientRect();"
        "page.querySelectorAll('details').forEach(d => d.open = true);"
        "const boxes = [...page.querySelectorAll('div.scroll')]; boxes.forEach(b => b.scrollLeft = 1000);"
        "document.body.dataset.seen = JSON.stringify({scrolled: boxes.map(b => b.scrollLeft),"
        "moved: boxes.map(b => at(b.querySelector('td')).left - at(b).left),"
        "sizes: [...page.images].map(i => i.naturalWidth * i.naturalHeight),"
        "aside: [...page.images].filter(i => at(i).left > frames[0].innerWidth / 2.5).length,"
        "over: page.documentElement.scrollWidth - frames[0].innerWidth})})</script>"
    )
    frame = f'<iframe style="border: 0; width: {width}px; height: 900px" srcdoc="{html.escape(page.read_text())}"></iframe>'
    copy = page.with_name(f"looked_at_{width}.html")  # in a frame, as Chromium has no window as narrow as a phone
    copy.write_text(f"<!doctype html><body>{frame}{script}</body>")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=1300,1000"]
    words += ["--virtual-time-budget=5000", "--dump-dom", f"--user-data-dir={page.parent / 'profile'}", copy.as_uri()]
    done = subprocess.run([BROWSER, *words], capture_output=True, text=True, timeout=120)
    seen = json.loads(re.search(r'data-seen="([^"]*)"', done.stdout)[1].replace("&quot;", '"'))
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], SimpleNamespace(**seen)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_draws_it(binary, width):
    complaints, seen = looked_at(binary[1] / "report.html", width)
    assert complaints == []
    assert len(seen.sizes) == 6
    assert min(seen.sizes) > 10_000
    assert seen.over <= 0  # tables scroll in themselves
    assert (max(seen.scrolled) > 0) == (width < 400)
    assert np.abs(seen.moved).max() < 1  # the names stay
    assert (seen.aside > 0) == (width > 1100)  # two columns on a desktop


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
def test_a_browser_would_tell(binary, tmp_path):
    """The check above sees broken pictures and scripts that fail."""
    broken = binary[2].replace("data:image/svg+xml;base64,", "data:image/svg+xml;base64,AAAA", 1)
    (tmp_path / "broken.html").write_text(broken.replace("</body>", "<script>console.error('oh')</script></body>"))
    complaints, seen = looked_at(tmp_path / "broken.html", 800)
    assert min(seen.sizes) == 0
    assert any("oh" in line for line in complaints)
