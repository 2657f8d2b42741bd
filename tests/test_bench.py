"""The benchmarks run, on tiny sizes, and what they measure with gives what is known."""

from pathlib import Path

import bench_gpu
import bench_losses
import bench_measure
import bench_train
import numpy as np
import pytest
import torch
from bench_gpu_training import Timeline

from rsseg.config.arguments import parse
from rsseg.contract import InputError

ROOT = Path(__file__).parents[1]
PAGE = ROOT / bench_gpu.PAGE
TINY = ["device=cpu", "batch=2", "side=32", "rounds=1", "steps=5", "tile=80", "scene=100", "encoder=test_resnet", "minutes=60"]


@pytest.fixture
def page(tmp_path):
    copy = tmp_path / "benchmarks.md"
    copy.write_text(PAGE.read_text())
    return copy


def run(*words):
    bench_gpu.main(parse(bench_gpu.Arguments, list(words)))


def rows(page, name):
    """The rows of the table of a section on a GPU, without its head."""
    inside = page.read_text().split("<!-- gpu -->")[1].split("<!-- end of gpu -->")[0]
    lines = inside.split(f"**{name}**")[1].split("**")[0].strip().splitlines()
    return [line.strip("| ").split(" | ") for line in lines[2:]]


@pytest.mark.slow
def test_the_run_for_a_gpu_fills_every_table(page):
    run(*TINY, f"page={page}", "sections=exactness,launches,losses,training,mapping")
    exact = rows(page, "exactness")
    assert len(exact) == len(list((ROOT / "configs/loss/term").glob("*.yaml")))
    assert all(cell.endswith("pass)") for row in exact for cell in row[1:])
    assert len(rows(page, "launches")) == 1 + len(bench_losses.COMPOSITIONS)
    failed = [row[0] for row in rows(page, "losses") if "failed" in row[1]]
    assert failed == [f"{classes} classes, bfloat16: smp: four + lovasz" for classes in (2, 7, 21)]  # smp's takes no bfloat16
    training = rows(page, "training")
    assert len(training) == 3
    for row in training:
        assert float(row[1]) > 0
        assert sum(float(share) for share in row[2:7]) == pytest.approx(100, abs=0.3)
        assert min(float(share) for share in row[3:7]) > 0
    assert 0 < float(training[1][7]) < 100
    [(_, taken, rate)] = rows(page, "mapping")
    assert float(taken) > 0
    assert float(rate) >= 0
    assert "NO GPU" in page.read_text()
    assert "**compiled**" not in page.read_text()  # of an earlier run nothing is left


def test_what_there_is_no_time_for_is_named(page):
    run(*TINY, f"page={page}", "minutes=0", "sections=exactness,training")
    for name in ("exactness", "training"):
        assert {row[1] for row in rows(page, name)} == {"left out: no time"}


def test_a_row_that_fails_says_why():
    assert bench_gpu.result(lambda: 1 / 0, float("inf")) == ["failed: ZeroDivisionError: division by zero"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["device=cpu"], "has figures of a GPU"),
        (["device=cpu", "page={page}", "sections=traning"], "did you mean 'training'"),
        (["device=cpu", "page={page}.md"], "has no place for these figures"),
    ],
)
def test_what_is_refused(page, words, message):
    before = PAGE.read_text()
    with pytest.raises(InputError, match=message):
        run(*(word.format(page=page) for word in words))
    assert PAGE.read_text() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so():
    with pytest.raises(InputError, match="no GPU is found"):
        run()


def test_shares_are_those_of_the_marks():
    timeline = Timeline()
    timeline.cuda, clock = False, 0.0
    for _ in range(10):
        for part, taken in [("data", 1), ("forward", 2), ("loss", 1), ("loss", 1), ("backward", 3), ("update", 2)]:
            clock += taken
            timeline.marks.append(("train", part, clock))
    timeline.marks += [("validation", "forward", clock + 3), ("validation", "metrics", clock + 4)]
    assert timeline.row(batch=20) == ["2.0", "10.0", "20.0", "20.0", "30.0", "20.0", "25.0", ""]


def test_the_peak_is_that_of_the_blocks_that_live_together():
    def call():
        first = torch.empty(1000)
        second = torch.empty(3000)
        del first
        third = torch.empty(2000)
        return second, third

    assert bench_measure.peak_bytes(call) == 4 * (3000 + 2000)


def test_a_page_keeps_what_stands_around_its_tables(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n")
    bench_measure.fill(page, "a", r"new \1")
    bench_measure.fill(page, "a", r"new \2")
    assert page.read_text() == "before\n<!-- a -->\n\nnew \\2\n\n<!-- end of a -->\nafter\n"


def test_limits_are_judged():
    assert bench_measure.judged(0.5, 0.5) == "0.50 (at most 0.5: pass)"
    assert bench_measure.judged(0.51, 0.5) == "0.51 (at most 0.5: FAIL)"
    assert bench_measure.judged(0.51, None) == "0.51"


def test_the_table_of_losses_judges_what_is_demanded(page, monkeypatch):
    monkeypatch.setattr(bench_losses, "SHAPES", [(2, 7, 32, 32)])
    bench_losses.main(parse(bench_losses.Arguments, ["rounds=1", "steps=1", f"page={page}"]))
    inside = page.read_text().split("<!-- losses -->")[1].split("<!-- end of losses -->")[0]
    table = {line.split(" | ")[0].strip("| "): line for line in inside.splitlines() if line.startswith("|")}
    for name, (_, limit) in bench_losses.COMPOSITIONS.items():
        assert table[f"rsseg: {name}"].count("at most") == (0 if limit is None else 3)
    assert "(at most 0.5: " in table["rsseg: four"]
    assert "(at most 3: " in table["rsseg: four"]
    assert "| 3.0 |" in table["torch: ce"]  # log-probabilities, their gradient and the logits' are as large as the logits


def test_all_libraries_mean_the_same_cross_entropy():
    x, label = bench_losses.scene((2, 3, 32, 32))
    found = bench_losses.cases(["rsseg", "smp", "kornia"])
    expected = found[bench_losses.CE].loss(x, label)
    for name in ("rsseg: ce", "smp: ce", "kornia: ce"):
        torch.testing.assert_close(found[name].loss(x, label.to(found[name].target)), expected)


def write_scene(folder, name, image, mask):
    bench_measure.write_raster(folder / "images" / f"{name}.tif", image)
    bench_measure.write_raster(folder / "masks" / f"{name}.tif", mask[None])


def test_training_is_scored_on_the_labelled_pixels_of_real_scenes_that_are_held_out(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, 40, 70), dtype=np.uint8)
    masks = rng.choice(np.array([0, 1, 2, 255], np.uint8), (2, 40, 70))
    for name, image, mask in zip(("town1_a", "town2_a"), images, masks, strict=True):
        write_scene(tmp_path / "real", name, image, mask)
    words = [f"data={tmp_path / 'real'}", "label=2", "held_out=town2_"]
    bench_train.write_tiles(tmp_path / "tiles", bench_train.real_tiles(parse(bench_train.Arguments, words)))
    assert {path.stem for path in tmp_path.glob("tiles/images/*")} == {"train_town1_a", "val_town2_a"}
    bright = images[1, 0] > 100
    known, road = masks[1] != 255, masks[1] == 2
    iou = (bright & road).sum() / ((bright | road) & known).sum()
    found = bench_train.validation_iou(
        lambda x: torch.stack([x[:, 0] <= 100, x[:, 0] > 100], 1).float(), tmp_path / "tiles", 32
    )
    assert found == pytest.approx(iou)


def test_scenes_that_cannot_be_held_out_are_refused(tmp_path):
    write_scene(tmp_path, "town1", np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8), np.uint8))
    with pytest.raises(InputError, match="not all"):
        bench_train.main(parse(bench_train.Arguments, [f"data={tmp_path}"]))
