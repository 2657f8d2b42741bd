"""The report as a page: what its tables say, that it needs nothing else, and that a browser shows it."""

import dataclasses
import html
import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from run_folders import BINARY, FOUR, changed, made_comparison, made_run, make_records, make_sweep, of_label, steady

from rsseg.comparison.caveats import caveats
from rsseg.comparison.findings import Findings
from rsseg.comparison.page import html_table
from rsseg.comparison.report import by_measure, pairs, protocol, ranking, ranking_note, regrets, say, sections, write_report
from rsseg.comparison.selection import gather
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
    assert {f"{name}.png" for name in ("forest", "curves", "terms")} | {f"{name}.csv" for name in all_tables(binary[0])} == {
        *names
    } - {"report.html"}


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


def test_the_table_of_losses(binary):
    found = binary[0]
    (rows, kinds), chances = ranking(found), found.chances
    assert rows.index.tolist() == [found.labels[i] for i in found.advised.order]
    for i, label in enumerate(found.labels):
        row = rows.loc[label]
        for estimates, score in ((found.ranked, "IoU"), (found.tuned, "IoU, tuned")):
            value, *ends = estimates.score.at(i)
            assert row[score] == f"{number(value)}\n{span(*ends)}"
            value, *ends = estimates.lead().at(estimates.order[0], i)
            first = i == estimates.order[0]
            assert row[f"{score}: behind the best"] == ("" if first else f"{number(value)}\n{span(*ends)}")
            assert kinds.loc[label, f"{score}: behind the best"] == ("worse" if ends[0] > 0 else "")
        assert row["gained by tuning"].startswith(f"{number(found.gained.value[i], sign=True)}\n")
        used = ", tuned" * found.tune
        assert row[f"probability of being the best{used}"] == percent(chances.best[i])
        assert row[f"expected on new scenes{used}"] == number(chances.mean[i])
        assert row["best checkpoint is the last"] == "3 of 3"
        assert row["time"] == "38 s"  # of three runs of 12.5 s


def test_trouble_is_in_the_row_of_its_loss():
    found = of_label(steady([0.6, 0.5]), failed={"dice": 2}, labels=["ce", "dice"])
    found.collapsed = np.array([[False] * 5, [True] * 3 + [False] * 2])
    text, kinds = ranking(found)
    assert text["runs"].to_dict() == {"ce": "5", "dice": "5\n3 collapsed\n2 failed"}
    assert kinds["runs"].to_dict() == {"ce": "", "dice": "worse"}


def test_baselines_follow_the_losses():
    found = of_label(steady([0.6, 0.5]), labels=["ce", "dice"])
    text, kinds = ranking(changed(found, baselines={"all road": 0.123}))
    assert [cell for cell in text.loc["all road"] if cell] == ["0.123"]
    assert text.index[-1] == "all road"
    assert set(kinds.loc["all road"]) == {"base"}


@pytest.mark.parametrize(
    ("seeds", "said"),
    [(1, "No intervals"), (2, "too few seeds to call one loss better"), (3, "hold for all losses together")],
)
def test_what_intervals_there_are_is_said(seeds, said):
    found = of_label(steady([0.6, 0.4], seeds=seeds), labels=["ce", "dice"])
    assert said in ranking_note(found)
    text, kinds = ranking(found)
    assert ("probability of being the best" in text) == (seeds > 2)
    behind = "IoU: behind the best"
    assert (kinds.loc["dice", behind], "\n" in text.loc["dice", behind]) == (("worse", True) if seeds > 2 else ("", False))


def test_scores_of_few_areas_have_no_intervals_where_differences_have():
    iou = steady([0.5, 0.45], seeds=3, scenes=2) + np.array([0.3, -0.3])
    assert "Scores have no intervals: too few scenes. Below: 95 % intervals of differences" in ranking_note(of_label(iou))


def colour(low, high):
    return "better" if low > 0 else "worse" if high < 0 else ""


def test_a_cell_is_coloured_where_its_interval_excludes_0():
    found = of_label(steady([0.6, 0.601, 0.5], of_seeds=0.01), labels=["ce", "dice", "focal"])
    lead, (text, kinds) = found.ranked.lead(), pairs(found)
    for (i, one), (j, other) in itertools.product(enumerate(found.labels), repeat=2):
        value, low, high = lead.at(i, j)
        assert text.loc[one, other] == number(value, sign=True)
        assert kinds.loc[one, other] == colour(low, high)
    assert (kinds == "better").to_numpy().sum() == 2  # both above the third
    text, kinds = by_measure(found)
    for estimates in found.estimates.values():
        heading, leads = estimates.measure.heading, estimates.lead()
        assert text.loc[heading, "dice"] == number(estimates.mean.value[1])
        assert text.loc[heading, "focal"] == number(leads.value[2, 1], sign=True)
        assert kinds.loc[heading, "focal"] == colour(leads.low[2, 1], leads.high[2, 1])
    few = of_label(steady([0.6, 0.601, 0.5], of_seeds=0.01, seeds=2), labels=["ce", "dice", "focal"])
    assert set(pairs(few).kinds.to_numpy().ravel()) == set(by_measure(few).kinds.to_numpy().ravel()) == {""}


def test_what_tuning_gains_what_is_left_and_the_range_over_seeds():
    found = of_label(steady([0.5, 0.6]), tuned=steady([0.62, 0.61]), labels=["ce", "dice"])
    text, _ = regrets(found)
    for column, values in (("gained by tuning", found.gain.values), ("tuned: below the expected best", found.residual)):
        for label, seeds in zip(found.labels, values, strict=True):
            assert text.loc[label, column] == f"{number(seeds.mean())}\n{span(seeds.min(), seeds.max())}"
    assert "rank correlation of loss and score" not in text  # of two validations
    untuned = regrets(of_label(steady([0.5, 0.6]), labels=["ce", "dice"])).text
    assert "gained by tuning" not in untuned


def test_areas_and_classes_without_are_said():
    found = of_label(steady([0.6, 0.4]), labels=["ce", "dice"], groups=list("aabbccdd"))
    assert "8 scenes in 4 areas" in ranking_note(found)
    assert "every class" not in ranking_note(found)
    two = Multilabel(("building", "road", "water"))
    assert ", and over every class that is there without building." in ranking_note(
        changed(found, without=["building"], task=two, metrics=metrics(two, ["building"]))
    )


def test_blocks_are_not_called_independent():
    for groups, said in ((None, " on 8 blocks."), (list("aabbccdd"), " on 8 scenes in 4 areas.")):
        found = of_label(steady([0.6, 0.4]), labels=["ce", "dice"], groups=groups)
        for run in found.comparison.all_runs:
            run.config.dataset["source"] = {"split": {"blocks": 64, "train": 0.7, "val": 0.3}}
        assert said in ranking_note(found)
        assert f"expected on new {'areas' if groups else 'blocks'}" in ranking(found).text


def test_a_mean_over_scenes_says_of_how_many():
    missing = steady([0.6, 0.4])
    found = of_label(missing, labels=["ce", "dice"])
    assert "scene by scene" not in ranking_note(found)
    per_scene = Findings(found.comparison, "scene_iou")
    assert "scene by scene, of the 8 of 8 scenes that have a score" in ranking_note(per_scene)
    for run in found.comparison.all_runs:
        run.records.chosen[:, 0] = 0  # the first scene holds nothing
    assert "of the 7 of 8 scenes" in ranking_note(Findings(found.comparison, "scene_iou"))


@pytest.mark.parametrize(("metric", "mean"), [("iou", True), ("scene_dice", True), ("boundary_iou", True), ("kappa", False)])
def test_a_mean_over_classes_is_called_one(metric, mean):
    four = [[made_run(loss, seed, make_records(FOUR, loss, seed)) for seed in (1, 2)] for loss in ("ce", "dice")]
    note = ranking_note(Findings(made_comparison(four), metric))
    assert ("over every class that is there" in note) == mean


def test_the_printed_table_has_the_interval_that_decides(binary, capsys):
    found = binary[0]
    say(found)
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "behind" in printed
    assert all(label in printed for label in found.labels)


def test_classes_have_a_table_where_there_are_two(binary, tmp_path, monkeypatch):
    assert "IoU per class" not in binary[2]
    make_sweep(tmp_path, monkeypatch, FOUR, losses=("ce", "dice"), seeds=(1, 2), scenes=4)
    found = Findings(gather([tmp_path]))
    table, _ = sections(found, all_tables(found), {})["Classes and scenes"]
    assert "IoU per class" in table
    roof = re.search(r">roof</th>(.*?)</tr>", table, re.DOTALL)[1]
    expected = [found.metrics["iou/roof"](found.counts[i]).mean() for i in found.order]
    assert re.findall(r">(0\.\d+)</td>", roof) == [f"{x:.3f}" for x in expected]


def test_numbers_are_rounded_what_is_not_known_is_a_dash_and_text_is_escaped():
    table = pd.DataFrame({"a<b": ["x", "<i>"], "pixels": [1234567, 8], "score": [0.12345, np.nan]})
    html = html_table(table, title="a & b")
    assert re.findall(r">([^<>]*)</td>", html) == ["x", "1\u202f234\u202f567", "0.123", "&lt;i&gt;", "8", "-"]
    assert "a&lt;b</th>" in html
    assert "<strong>a &amp; b</strong>" in html
    assert len(re.findall(r'class="[^"]*\btext"', html)) == 2
    assert html_table(table.head(0)) == ""


def test_the_protocol_names_what_was_searched_and_every_platform(binary):
    comparison = binary[0].comparison
    other = changed(comparison.runs[0][0], origin={**comparison.runs[0][0].origin, "platform": "Windows"})
    rows = [[other, *comparison.runs[0][1:]], *comparison.runs[1:]]
    comparison = dataclasses.replace(comparison, runs=rows, rates={"ce": (0.01, [0.001, 0.01])}, design=["sampler.keep"])
    found = protocol(changed(binary[0], comparison=comparison))[""]
    assert found["Made on"] == "Python 3.11.0 on Windows; Python 3.11.0 on Linux"
    assert found["Rate of ce"] == "0.01, chosen of 0.001, 0.01 on search seeds"
    assert found["Varied beside the loss"] == "sampler.keep"


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
    assert parser.images == 3
    assert "url(" not in page
    assert len(re.sub(r'"data:[^"]*"', "", page)) < 60_000
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
        "moved: boxes.map(b => at(b.querySelector('tbody tr > :first-child')).left - at(b).left),"
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
    assert len(seen.sizes) == 3
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
