"""A run that is trained again: identical where nothing has changed, told apart where something has."""

import json
import shutil
from statistics import stdev

import pytest
from test_run import folder_data, settings

from rsseg.config.folder import RunFolder
from rsseg.contract import InputError
from rsseg.reproduction import changed_environment, reproduce, seed_noise
from rsseg.run import train

pytestmark = pytest.mark.usefixtures("no_charts")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, folder_root):
    folder = tmp_path_factory.mktemp("reproduced")
    for seed in (1, 2, 3):
        train(settings(folder, *folder_data(folder_root), "pictures=0", f"seed={seed}"), folder / f"seed={seed}", [], "ce_dice")
    return folder


def test_the_same_code_and_data_give_the_same_run(finished, tmp_path, caplog):
    caplog.set_level("INFO")
    assert reproduce(finished / "seed=1", tmp_path / "again")
    assert "Identical" in caplog.text
    assert "Different" not in caplog.text


@pytest.mark.parametrize(("shift", "outcome"), [(1e-9, "Within the noise"), (0.5, "Different: of ")])
def test_other_scores_are_judged_by_those_of_other_seeds(shift, outcome, finished, tmp_path, caplog):
    caplog.set_level("INFO")
    runs = shutil.copytree(finished, tmp_path / "runs")
    changed = runs / "seed=1/summary.json"
    summary = json.loads(changed.read_text())
    changed.write_text(json.dumps(summary | {"iou": summary["iou"] + shift}))
    origin = runs / "seed=1/run.json"
    origin.write_text(json.dumps(json.loads(origin.read_text()) | {"python": "2.7.18"}))
    assert reproduce(runs / "seed=1", tmp_path / "again") == (outcome == "Within the noise")
    assert outcome in caplog.text
    assert "iou differs most: it was " in caplog.text
    assert "Different from then: Python 2.7.18 -> 3." in caplog.text


def test_each_score_is_judged_by_its_own_noise(finished, tmp_path, caplog):
    """One that other seeds hardly change may differ less than another."""
    caplog.set_level("INFO")
    runs = shutil.copytree(finished, tmp_path / "runs")
    for seed in (1, 2, 3):
        path = runs / f"seed={seed}/summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"kappa": 0.1 + 1e-4 * seed}))
    assert not reproduce(runs / "seed=1", tmp_path / "again")
    assert "kappa differs most: it was 0.1001 and is" in caplog.text


def test_a_damaged_folder_beside_a_run_tells_nothing_of_the_noise(finished, tmp_path):
    runs = shutil.copytree(finished, tmp_path / "runs")
    for name, content in (("config.yaml", "seed: [1"), ("summary.json", "{")):
        (shutil.copytree(runs / "seed=3", runs / name) / name).write_text(content)
    scores = [json.loads((runs / f"seed={seed}/summary.json").read_text())["iou"] for seed in (2, 3)]
    assert seed_noise(RunFolder(runs / "seed=1"))["iou"] == pytest.approx(stdev(scores))


def test_changed_data_are_named(finished, folder_root, tmp_path, caplog):
    caplog.set_level("INFO")
    run = shutil.copytree(finished / "seed=1", tmp_path / "run")
    data = run / "data.json"
    held = json.loads(data.read_text())
    data.write_text(json.dumps(held | {"fingerprint": held["fingerprint"] | {"train": "another"}}))
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"iou": 0.99}))
    assert not reproduce(run, tmp_path / "again")
    assert "no runs of other seeds" in caplog.text
    assert "differences: the labels of the train split" in caplog.text


def test_versions_that_differ_are_named():
    then = {"code": "a", "python": "3.11", "platform": "x", "libraries": {"torch": "2.6", "timm": "1"}}
    now = {"code": "a", "python": "3.12", "platform": "x", "libraries": {"torch": "2.7", "timm": "1"}}
    assert list(changed_environment(then, now)) == ["Python 3.11 -> 3.12", "torch 2.6 -> 2.7"]


def test_a_run_that_is_not_finished_is_refused(finished, tmp_path):
    run = shutil.copytree(finished / "seed=1", tmp_path / "run")
    (run / "summary.json").unlink()
    with pytest.raises(InputError, match="it is not finished"):
        reproduce(run)
