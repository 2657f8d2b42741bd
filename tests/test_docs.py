"""The commands that the documentation shows run on tiny data, its reference is up to date, and it builds as a site."""

import dataclasses
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import layouts
import losses_pictures
import matplotlib.pyplot as plt
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from make_configuration import GROUPS, reference
from omegaconf import OmegaConf
from rasterio.transform import from_origin
from test_run import SMALL, TINY, settings
from tiny import CONFIGS, checker, coloured, compose, map_scene, write_tif
from torch.nn import functional as F

from rsseg.__main__ import main
from rsseg.answer import compare
from rsseg.assembly import check_run
from rsseg.commands import COMMANDS
from rsseg.commands.describe import Arguments as DescribeArguments
from rsseg.commands.describe import run as describe_folder
from rsseg.config.arguments import parse
from rsseg.config.entry import search_path
from rsseg.config.schema import Config
from rsseg.config.search import Search
from rsseg.describe.noise import describe_noise
from rsseg.describe.report import describe
from rsseg.evaluation.options import EvaluationOptions
from rsseg.evaluation.scores import evaluate
from rsseg.export import export
from rsseg.inference.options import ExportOptions
from rsseg.losses import Focal
from rsseg.run import train
from rsseg.search import check_search

ROOT = CONFIGS.parent
TUTORIALS = sorted((ROOT / "docs").glob("tutorial_*.md"))
PAGES = [*(ROOT / name for name in ("README.md", "README.pt.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = (
    "trainer=",
    "trainer.devices",
    "trainer.num_nodes",
    "output=",
    "hydra.",
    "logger",
    "race=",
)  # where and how far it runs, not what


def blocks(page: Path, language: str) -> list[str]:
    """The text of a page's blocks of code."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def lines(block: str) -> list[str]:
    """The commands of a shell block, each on one line."""
    joined = block.replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in joined if line.strip()]


def commands(*names: str) -> list[tuple[str, str]]:
    """The commands of rsseg of these names on all pages but the tutorials, which are run as a whole, each with a page.

    A command that several pages have, with other comments, is there once.
    """
    found = [
        (page.name, line) for page in PAGES if page not in TUTORIALS for block in blocks(page, "sh") for line in lines(block)
    ]
    shown = [(page, line) for page, line in found if line.startswith(tuple(f"rsseg {name}" for name in names))]
    once = {tuple(shlex.split(line, comments=True)): (page, line) for page, line in reversed(shown)}
    return list(once.values())[::-1]


@pytest.fixture(scope="session")
def data(tmp_path_factory, folder_root):
    """A /data folder with every dataset, the user's own, some with masks in colours or called otherwise, and weights."""
    base, rng = tmp_path_factory.mktemp("docs"), np.random.default_rng(3)
    for name in layouts.every():
        layouts.write(base, name)
    root = base / "disk1"
    layouts.own_scenes(root / "floods", rng)
    shutil.copytree(folder_root, root / "mine")
    shutil.copytree(folder_root / "images", root / "sketched/photos")
    for date in ("before", "after"):
        shutil.copytree(folder_root / "images", root / "mine" / date)
    for image in sorted((folder_root / "images").iterdir()):
        water = rng.integers(0, 101, (80, 96))
        write_tif(root / "mine/shares" / image.name, np.stack([100 - water, water, 0 * water]).astype(np.uint8))
        write_tif(root / "mine/heights" / image.name, 100 * rng.random((1, 80, 96), dtype=np.float32))
        write_tif(root / "mine/confidence" / image.name, rng.random((1, 80, 96), dtype=np.float32))
        write_tif(root / f"sketched/drawn/{image.stem}_v2.tif", checker(rng, 96, 2)[None, :80])
    for i, place in enumerate(["north_1", "south_1", "south_2"]):
        mask = checker(rng, 96, 2)
        write_tif(root / f"coloured/images/{place}.tif", coloured(rng, mask))
        blue = np.stack([mask * 0, mask * 0, mask * 255]).astype(np.uint8)
        blue[:, :4, : 4 * i] = np.array([255, 0, 255], np.uint8)[:, None, None]
        write_tif(root / f"coloured/masks/{place}.tif", blue)
    crops = np.zeros((1, 96, 1096), np.uint8)
    for i in range(2):  # tiles of Sentinel-2, and labels of their year
        place = from_origin(500_000 + 10_000 * i, 4_000_000, 10, 10)
        mask = checker(rng, 96, 3)
        for band, pixels in zip(("B04", "B03", "B02"), coloured(rng, mask), strict=True):
            name = f"sentinel2/R10m/T33T{'UV'[i]}M_20180601T100031_{band}_10m.tif"
            write_tif(root / name, pixels[None].astype(np.uint16) * 20, transform=place)
        crops[0, :, 1000 * i : 1000 * i + 96] = np.array([0, 1, 5])[mask]
    write_tif(root / "cdl/2018_30m_cdls.tif", crops, transform=from_origin(500_000, 4_000_000, 10, 10))
    net = smp.Unet("resnet18", encoder_weights=None, decoder_channels=(16, 16, 8, 8, 8))
    torch.save(net.state_dict(), root / "weights.pt")
    return root


@pytest.fixture(scope="session")
def own_configs(data, tmp_path_factory):
    """The overrides that let Hydra find the datasets which the page of own data writes."""
    folder = tmp_path_factory.mktemp("own") / "configs"
    for block in blocks(ROOT / "docs/own_data.md", "yaml"):
        write_config(folder.parent, block.replace("/data/", f"{data}/"))
    return search_path(folder)


def write_config(folder: Path, block: str) -> None:
    """Write a block of YAML below a folder, at the path that its first line names."""
    path = folder / block.split("\n")[0].removeprefix("# ")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block, encoding="utf-8")


def sweep(words: list[str]) -> list[list[str]]:
    """The runs of a multirun, or the one run."""
    if "-m" not in words:
        return [words]
    words = [word for word in words if word != "-m" and not word.startswith("hydra")]
    named = next((word.removeprefix("sweep=") for word in words if word.startswith("sweep=")), None)
    params = OmegaConf.load(CONFIGS / f"sweep/{named}.yaml").hydra.sweeper.params if named else {}
    own = {word.partition("=")[0] for word in words}
    words = [*(f"{key}={value}" for key, value in params.items() if key not in own), *words]
    parsed = OverridesParser.create().parse_overrides(words)
    choices = [
        [f"{o.key_or_group}={v}" for v in o.sweep_string_iterator()] if o.is_sweep_override() else [o.input_line]
        for o in parsed
    ]
    return [list(combination) for combination in itertools.product(*choices)]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
@pytest.mark.parametrize(("page", "line"), commands("train"))
def test_commands_to_train(page, line, data, own_configs, tmp_path, monkeypatch):
    monkeypatch.setenv("RSSEG_DATA", str(data))
    words = shlex.split(line.replace("/data/", f"{data}/"), comments=True)[2:]
    if any(word.startswith(("resume=", "--")) for word in words):
        return  # going on with a run and --help are tested elsewhere
    for number, run in enumerate(sweep(words)[:2]):
        model = next((word.removeprefix("model=") for word in run if word.startswith("model=")), "")
        encoder = [] if any("weights" in word for word in run) else ["model.encoder=test_resnet"]
        own = ["model.encoder=resnet18", *(word for word in run if not word.startswith(ELSEWHERE))]
        needed = [*SMALL[model]] if model in ("dpt", "pan") else []
        if "sweep=kfold" in run:
            needed.append(f"dataset.fold={number + 1}/2")  # the small Inria has two cities, the whole one five
        config = settings(tmp_path, *own_configs, *own, *TINY[1:], *encoder, *needed)
        if config.dataset.name.startswith("synthetic"):
            config.dataset.source.scenes, config.dataset.source.recipe["size"] = {"train": 1, "val": 1, "test": 1}, 96
        if number:  # the first run is trained; of another one what can be seen beforehand
            check_run(config, scenes=True)
            continue
        score = train(config, tmp_path / str(number), own, "loss")
        assert score < 0 if config.dataset.task == "regression" else 0 <= score <= 1


@pytest.fixture(scope="session")
def finished(tmp_path_factory, folder_root):
    folder = tmp_path_factory.mktemp("finished")
    words = ["dataset=folder", f"dataset.source.root={folder_root}", "dataset.classes=[a,b,c]"]
    train(settings(folder, *words, "dataset.source.split={train: 0.5, val: 0.3, test: 0.2}"), folder / "run", [], "ce_dice")
    return folder / "run"


scored = cache(lambda run, split: evaluate(run, EvaluationOptions(split)))
compared, mapped = cache(lambda run: compare([run])), cache(map_scene)
"""What several commands of the pages come to on the tiny run, done once."""


@pytest.mark.slow
@pytest.mark.parametrize(("page", "line"), commands(*sorted(set(COMMANDS) - {"train", "new", "reproduce"})))
def test_the_other_commands(page, line, data, own_configs, finished, folder_root, tmp_path):
    name, *words = shlex.split(line, comments=True)[1:]
    parse(import_module(f"rsseg.commands.{name}").Arguments, words)
    if name == "search":
        return check_search(searched(tmp_path, words))
    given = dict(word.split("=", 1) for word in words if "=" in word)
    if name == "evaluate":
        scored(finished, given.get("split", "val"))
    elif name == "predict":
        mapped(finished, min((folder_root / "images").iterdir()))
    elif name == "export":
        if given.get("to") == "onnx":
            pytest.importorskip("onnxscript"), pytest.importorskip("onnxruntime")
        labels = given.get("labels") == "true"
        threshold = given.get("threshold", "fixed")
        export(finished, ExportOptions(given.get("to", "folder"), tmp_path / "out", threshold=threshold, labels=labels))
    elif name == "describe":
        own = [word.replace("/data/", f"{data}/") for word in words]
        if "run" in given:
            describe_noise(finished)
            return None
        if not given or "mask" in given:
            own = [word for word in own if "=" not in word]
            words = [*own, f"output={tmp_path}", "window=64"]
            describe_folder(DescribeArguments(words, str(tmp_path / "dataset"), **given))
            return None
        config = compose([*own_configs, *own, f"output={tmp_path}"])
        if config.dataset.name == "synthetic":
            config.dataset.source.scenes = {"train": 1, "val": 1, "test": 1}
        describe(config, tmp_path, own)
        assert (tmp_path / "description.png").is_file()
    else:
        assert name == "compare"
        compared(finished)
    return None


def searched(tmp_path: Path, words: list[str]) -> Search:
    """What a documented search looks for."""
    found = parse(Search, words)
    found.overrides.append(f"output={tmp_path}")
    return found


def test_the_reference_is_up_to_date():
    assert (ROOT / "docs/configuration.md").read_text() == reference(CONFIGS), "run `make docs`"


def test_train_yaml_shows_every_field():
    shown = {key for key in OmegaConf.load(CONFIGS / "train.yaml") if key not in ("defaults", "hydra")}
    groups = {group.split("/")[0] for group in GROUPS} - {"experiment", "sweep"}
    assert shown | groups == {field.name for field in dataclasses.fields(Config)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
        assert Path(target).suffix != ".png" or not target.startswith("http")
    for script in re.findall(r"\b(?:docs|examples|scripts)/\w+\.py\b", text):
        assert (ROOT / script).exists(), script


def test_every_choice_is_documented():
    """Each dataset and model is named in its page; each option of every group is in the reference, which is made from them."""
    for group in ("dataset", "model"):
        text = (ROOT / f"docs/{group}s.md").read_text()
        for path in (CONFIGS / group).glob("*.yaml"):
            assert path.stem in text, f"{group}={path.stem} is missing in docs/{group}s.md"


def test_smp_is_as_the_page_of_migration_says():
    label, wrong = torch.zeros(1, 8, 8, dtype=torch.long), torch.zeros(1, 7, 8, 8)
    wrong[:, 1] = 20.0  # one class of seven, and everywhere another is predicted
    assert smp.losses.DiceLoss("multiclass")(wrong, label).item() == pytest.approx(1 / 7, abs=1e-3)
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 4, 8, 8, generator=generator), torch.randint(0, 4, (2, 8, 8), generator=generator)
    expected = F.cross_entropy(logits, target).item()
    assert Focal("multiclass", gamma=0)(logits, target).item() == pytest.approx(expected)
    assert smp.losses.FocalLoss("multiclass", gamma=0.0)(logits, target).item() != pytest.approx(expected, rel=0.01)
    target[0] = 255  # half of the pixels are ignored
    found = smp.losses.SoftCrossEntropyLoss(smooth_factor=0.0, ignore_index=255)(logits, target)
    assert 2 * found.item() == pytest.approx(F.cross_entropy(logits, target, ignore_index=255).item())


@pytest.mark.slow
def test_the_pictures_of_the_losses_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(losses_pictures, "FOLDER", tmp_path)
    monkeypatch.setattr(losses_pictures, "SIDE", 20)
    losses_pictures.segmentation()
    losses_pictures.regression()
    for name in ("losses.png", "losses_regression.png"):
        assert plt.imread(tmp_path / name).std() > 0.05


TINY_TUTORIAL = [*TINY, "model.net.decoder_channels=[16,16,8,8,8]", "model.weights=none"]
TINY_SCENES = ["dataset.source.recipe.size=96", "dataset.source.scenes={train: 12, val: 4, test: 4}"]


def tiny_command(words: list[str]) -> list[str]:
    """The words of a tutorial's command for tiny training."""
    if words[0] != "train":
        return words
    tiny = [*TINY_TUTORIAL, *([] if "dataset=aerial" in words else TINY_SCENES)]
    tiny += ["loss=ce,dice", "seed=1,2,3"] if "-m" in words else []
    keys = {word.partition("=")[0] for word in tiny}
    return [*(word for word in words if word.partition("=")[0] not in keys), *tiny]


def run_tutorial(page: Path, folder: Path) -> None:
    """Do in a folder what a tutorial says: run its commands, and write the files whose path stands in a block's first line.

    Commands of rsseg run in this process, which imports torch once for all of them.
    """
    os.chdir(folder)
    text = page.read_text(encoding="utf-8")
    for language, block in re.findall(r"^```(sh|yaml)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language == "yaml":
            write_config(folder, block)
            continue
        for line in lines(block):
            for dataset in re.findall(r"runs/(\w+)/20[\d_-]+", line):  # the page's run is of another time
                newest = max(path.name for path in (folder / "runs" / dataset).glob("20*"))
                line = re.sub(rf"runs/{dataset}/20[\d_-]+", f"runs/{dataset}/{newest}", line)
            words = shlex.split(line, comments=True)
            if words[0] == "rsseg":
                sys.argv = ["rsseg", *tiny_command(words[1:])]
                main()
            else:
                subprocess.run(line, shell=True, check=True)


def follow(page: Path, folder: Path) -> None:
    """Do what a tutorial says in a process of its own."""
    process = get_context("spawn").Process(target=run_tutorial, args=(page, folder))
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.slow
def test_the_tutorial_from_raw_files_to_a_map(tmp_path):
    follow(ROOT / "docs/tutorial_map.md", tmp_path)
    assert list(tmp_path.glob("runs/aerial/*/evaluation-test-tuned.csv"))
    assert list(tmp_path.glob("runs/aerial/*/maps/test_001.tif"))
    assert list(tmp_path.glob("runs/aerial/*/maps/test_001-polygons.gpkg"))


@pytest.mark.slow
def test_the_tutorial_from_a_question_to_an_answer(tmp_path):
    follow(ROOT / "docs/tutorial_answer.md", tmp_path)
    comparison = tmp_path / "runs/sweep/buildings_losses/comparison"
    assert (comparison / "report.html").is_file()
    assert "ce" in (comparison / "comparison.csv").read_text()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="the site's tools are the extra docs")
def test_the_site_is_built_without_a_warning(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rsseg.losses.Tversky" in (tmp_path / "python.html").read_text(encoding="utf-8")
    outside = r'(?:src|<link[^>]*href)="https?://'
    pages = {page: re.findall(outside, page.read_text(encoding="utf-8")) for page in tmp_path.rglob("*.html")}
    assert len(pages) > len(PAGES)
    assert not any(pages.values()), {page.name: found for page, found in pages.items() if found}
