"""What a run folder says when its files are damaged, edited by hand, or lie where nothing can be written."""

import json
import math
import re

import numpy as np
import pytest
import torch
from run_folders import BINARY, FOUR, make_records, write_run

from rsseg.comparison.runs import Run
from rsseg.config.build import plain
from rsseg.config.folder import RunFolder, check_places
from rsseg.contract import InputError
from rsseg.files import write_json

READ = {
    "config.yaml": lambda run: run.config(),
    "run.json": lambda run: run.origin(),
    "data.json": lambda run: run.data(),
    "summary.json": lambda run: run.summary(),
    "threshold.json": lambda run: run.thresholds({"mask": FOUR}),
}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    write_run(folder, FOUR, "ce", 1, make_records(FOUR, "ce", 1, scenes=2, steps=(100, 200)))
    write_json(folder / "threshold.json", {"mask": {"values": dict.fromkeys(FOUR.classes, 0.5)}})
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    return RunFolder(folder)


def edit(run, name, old, new):
    path = run.path / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_whole_run_is_read(run):
    assert (run.begun, run.finished, run.in_training) == (True, True, False)
    config = run.config()
    assert (config.seed, config.dataset.task, list(config.dataset.classes)) == (1, "multiclass", list(FOUR.classes))
    assert run.origin()["overrides"] == ["loss=ce", "seed=1"]
    assert run.data()["mean"] == [100.0]
    assert run.summary()["steps"] == 400
    assert run.thresholds({"mask": FOUR})["mask"].tolist() == [0.5] * 4
    assert run.thresholds({"mask": FOUR})["mask"].dtype == torch.float32


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "list", "number", "binary", "folder"])
def test_every_damage_is_one_line_that_says_what_to_do(run, name, damage):
    path = run.path / name
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        damaged = {"empty": b"", "cut": content[: len(content) * 2 // 3], "list": b"[1, 2]\n", "number": b"7\n"}
        path.write_bytes(damaged.get(damage, b"\x89PNG\r\n\x1a\n\x00\xff"))
    with pytest.raises(InputError) as caught:
        READ[name](run)
    line = str(caught.value)
    assert "\n" not in line
    assert str(run) in line
    way_out = r"(train the run again|scores the run again|leave threshold=tuned out|it has no config\.yaml)$"
    assert re.search(way_out, line), line


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_flipped_bytes_and_cuts_never_give_a_trace(run, name):
    path, rng, lines = run.path / name, np.random.default_rng(0), []
    content = path.read_bytes()
    read = READ[name] if name == "threshold.json" else lambda run: Run(run.path)
    for k in range(60):
        damaged = bytearray(content)
        for place in rng.integers(len(damaged), size=k % 3 + 1):
            damaged[place] = rng.integers(256)
        path.write_bytes(bytes(damaged) if k % 4 else content[: rng.integers(len(content))])
        try:
            read(run)
        except InputError as error:
            lines.append(str(error))
    assert len(lines) > 15
    assert not [line for line in lines if "\n" in line]


@pytest.mark.parametrize(
    ("name", "old", "new", "found"),
    [
        ("config.yaml", "steps: 400", "steps: many", "steps is 'many', a number is expected"),
        ("config.yaml", "steps: 400", "steps: true", "steps is True, a number is expected"),
        ("config.yaml", "bands:\n  - 1", "bands: red", "dataset.bands: "),
        ("config.yaml", "heads:\n    mask: {}", "heads: mask", "model.heads is 'mask', a mapping is expected"),
        (
            "config.yaml",
            "name: made_up",
            "name: ${oc.env:HOME}",
            "dataset.name holds '${', and the config of a run holds values",
        ),
        ("config.yaml", "  - water", "  - ${now:%Y}", "dataset.classes holds '${'"),
        ("config.yaml", "lr: 0.001", "lr: ${rsseg.part:9,3}", "optimizer.lr holds '${'"),
        ("config.yaml", "seed: 1", "sed: 1", "it lacks seed"),
        ("config.yaml", "seed: 1", "seed: 1\nseed: 2", "found duplicate key seed"),
        ("config.yaml", "name: made_up", "name: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("run.json", '"loss": "ce"', '"loss": 3', "loss is 3, text is expected"),
        ("run.json", '"changed": false', '"changed": "no"', "git.changed is 'no', true, false or null is expected"),
        ("data.json", "[100.0]", '["a"]', "mean is ['a'], a list of numbers is expected"),
        ("data.json", "[100.0]", "[NaN]", "mean is [nan], a list of numbers is expected"),
        ("summary.json", '"seconds": 12.5', '"seconds": null', "seconds is None, a number is expected"),
        ("summary.json", '"iou"', '"IOU"', "it lacks iou"),
        ("threshold.json", "0.5", '"low"', "it lacks a number for each class"),
        ("threshold.json", "land", "lend", "it lacks a number for each class"),
    ],
)
def test_what_was_edited_by_hand_is_named(run, name, old, new, found):
    edit(run, name, old, new)
    with pytest.raises(InputError, match=re.escape(found)) as caught:
        READ[name](run)
    assert str(caught.value).startswith(f"{run.path / name} can't be read: ")
    assert "\n" not in str(caught.value)


def test_a_config_is_not_resolved_even_where_the_schema_refers_to_another_node(run):
    assert "${" not in str(run.config())


def test_keys_of_another_version_are_kept_and_new_ones_have_their_defaults(run):
    edit(run, "config.yaml", "loss:\n", "old_key: 3\nloss:\n  backend2: fast\n")
    config = run.config()
    assert (config.old_key, config.loss.backend2, config.margin) == (3, "fast", 32)


def test_settings_have_their_names_of_now(run):
    edit(run, "config.yaml", "batch_size: 8\n", "batch_size: 8\nresidence: ram\non_bad_tile: skip\noverlap: 9\n")
    config = run.config()
    assert (config.cache, config.on_bad_scene, config.margin) == ("ram", "skip", 9)
    assert not {"residence", "on_bad_tile", "overlap"} & config.keys()


@pytest.mark.parametrize(("folds", "fold", "now"), [("5", "2", "2/5"), ("groups", "1", "1/groups"), ("null", "null", None)])
def test_a_fold_is_one_setting_now(run, folds, fold, now):
    edit(run, "config.yaml", "  name: made_up\n", f"  name: made_up\n  folds: {folds}\n  fold: {fold}\n")
    config = run.config()
    assert config.dataset.fold == now
    assert "folds" not in config.dataset


def test_null_is_nan_in_scores(run):
    edit(run, "summary.json", '"iou": ', '"iou": null, "old": ')
    assert math.isnan(run.summary()["iou"])


def test_a_run_that_never_trained_and_one_that_is_not_finished(run):
    run.data_file.unlink()
    with pytest.raises(InputError, match=r"data\.json can't be read: .*No such file"):
        run.data()
    run.last.unlink()
    with pytest.raises(InputError, match=r"never started training: go on with .* resume="):
        run.data()
    run.thresholds_file.unlink()
    with pytest.raises(InputError, match=r"no threshold\.json of head mask: the run is not finished"):
        run.thresholds({"mask": BINARY})


def test_a_config_is_written_and_read_back_as_it_was(run, tmp_path):
    values = {"dataset": {"classes": ["$\\frac{$", "=1+1", "[red]", "中", "a: b", "null", "1", "yes"]}, "lr": 1e-5, "n": None}
    other = RunFolder(tmp_path / "other")
    other.write_config(values)
    from omegaconf import OmegaConf

    assert OmegaConf.to_container(OmegaConf.load(other.config_file)) == values
    assert [path.name for path in other.path.iterdir()] == ["config.yaml"]


def test_differences_are_those_of_training_alone(run):
    from rsseg.config.build import plain

    values = plain(run.config())
    assert run.differences(values) == {}
    assert run.differences({**values, "output": "elsewhere", "workers": 3}) == {}
    assert run.differences({**values, "dataset": {**values["dataset"], "bands": None}}) == {}
    changed = {**values, "steps": 500, "optimizer": {"lr": 0.001, "momentum": 0.9}}
    assert run.differences(changed) == {"optimizer.momentum": (None, 0.9), "steps": (400, 500)}
    with pytest.raises(InputError, match=r"another config \(optimizer\.momentum: None -> 0\.9, steps: 400 -> 500\)"):
        run.refuse_other(changed)
    RunFolder(run.path / "new").refuse_other(changed)


@pytest.mark.parametrize(("name", "for_what"), [("model.onnx", "onnxruntime and Deepness"), ("model.pt2", "PyTorch")])
def test_an_exported_graph_is_not_taken_for_a_run(tmp_path, name, for_what):
    (tmp_path / name).touch()
    for place in (tmp_path, tmp_path / name):
        with pytest.raises(InputError, match=rf"{name} is a graph for {for_what}.* exports of to=folder"):
            check_places([place])
            RunFolder(place).config()


def test_what_a_killed_run_left_half_written_is_removed_before_the_next_trains(run):
    old = [run.checkpoints / ".last.abc.part.ckpt", run.records / ".step-000100.abc.part.npz"]
    young = run.path / ".evaluation-val.abc.part.csv"  # another process may write it
    for path in (*old, young):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    with run.lock():
        assert not any(path.exists() for path in old)
        assert young.exists()


def test_a_run_that_never_began_leaves_no_folder(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "inria" / "run")
    with folder.lock():
        folder.log_file.write_text("Training loss=ce\n")
        (tmp_path / "runs" / "cache").mkdir()
        folder.discard()
    assert [path.name for path in (tmp_path / "runs").rglob("*")] == ["cache"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("train.log", "Traceback (most recent call last):\n"), ("config.yaml", "seed: 1\n"), ("notes.txt", "of the user's\n")],
)
def test_what_a_user_may_need_of_a_run_that_failed_stays(tmp_path, name, text):
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        (folder.path / name).write_text(text)
        folder.discard()
    assert (folder.path / name).read_text() == text


def test_a_changed_number_is_not_read_as_another_run(run):
    """The table of runs takes what the folder says."""
    content = json.loads(run.summary_file.read_text())
    write_json(run.summary_file, {**content, "iou": 0.25})
    assert Run(run.path).summary["iou"] == 0.25


def test_where_data_lie_is_written_whole_and_found_again(run, tmp_path, monkeypatch):
    """A root relative to the folder that one stands in; then the data move to another place."""
    config = run.config()
    (tmp_path / "here" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    config.dataset.source = {"root": "mine"}
    run.write_config(plain(config))
    assert run.config().dataset.source.root == str(tmp_path / "here" / "mine")
    assert run.differences(config) == {}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "mine").rename(tmp_path / "mine")
    assert run.config().dataset.source.root == str(tmp_path / "here" / "mine")
    monkeypatch.setenv("RSSEG_DATA", str(tmp_path))
    assert run.config().dataset.source.root == str(tmp_path / "mine")
