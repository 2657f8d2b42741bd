"""Loggers beside metrics.csv: what arrives there, and that a run goes on without them."""

import csv
import json

import pytest
from lightning.pytorch.loggers import Logger
from test_run import folder_data, settings
from tiny import power_cut

from rsseg.loggers import SideLogger
from rsseg.run import train

PICTURES = {"windows", "best", "confusion", "curves"}


def run(tmp_path, folder_root, *overrides):
    train(settings(tmp_path, *folder_data(folder_root), "validations=2", "pictures=1", *overrides), tmp_path / "run")
    return tmp_path / "run"


def test_tensorboard(tmp_path, folder_root):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run(tmp_path, folder_root, "logger=tensorboard")
    events = EventAccumulator(str(folder / "tensorboard"), {"images": 0, "scalars": 0, "tensors": 0})
    events.Reload()
    assert set(events.Tags()["images"]) == PICTURES
    assert len(events.Images("windows")) == 2
    with (folder / "metrics.csv").open() as file:
        written = [float(row["val/iou"]) for row in csv.DictReader(file) if row["val/iou"]]
    assert [event.value for event in events.Scalars("val/iou")] == pytest.approx(written)
    table = events.Tensors("classes/text_summary")[0].tensor_proto.string_val[0].decode()
    assert table.startswith("| class | iou | dice | precision | recall | pixels | in scenes |\n| --- |")
    assert "\n| mean |" in table


@pytest.mark.slow
def test_wandb_offline(tmp_path, folder_root, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = run(tmp_path, folder_root, "logger=wandb", "logger.wandb.offline=true")
    assert wandb.run is None  # closed: the next run of a sweep gets one of its own
    media = next((folder / "wandb").glob("offline-run-*")) / "files" / "media"
    assert {path.name.split("_")[0] for path in (media / "images").iterdir()} == PICTURES
    table = json.loads(next((media / "table").rglob("classes*.json")).read_text())
    assert table["columns"] == ["class", "iou", "dice", "precision", "recall", "pixels", "in scenes"]
    assert [row[0] for row in table["data"]] == ["a", "b", "c", "mean"]


@pytest.mark.slow
def test_mlflow_in_a_local_file(tmp_path, folder_root):
    from mlflow.tracking import MlflowClient

    run(tmp_path, folder_root, "logger=mlflow")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("folder").experiment_id])[0]
    assert found.info.status == "FINISHED"
    assert found.data.params["dataset/name"] == "folder"
    assert len(client.get_metric_history(found.info.run_id, "val/iou")) == 2
    assert {item.path for item in client.list_artifacts(found.info.run_id)} == PICTURES | {"classes.json"}


@pytest.mark.slow
def test_trackio_in_a_local_file(tmp_path, folder_root, monkeypatch):
    """Runs that begin and go on, one after the other in one process, each as a run of its own."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))  # read once per process
    pytest.importorskip("trackio", exc_type=ImportError)
    from trackio.sqlite_storage import SQLiteStorage

    words = [*folder_data(folder_root), "validations=2", "pictures=1", "logger=trackio"]
    with power_cut(1):
        train(settings(tmp_path, *words, "checkpoint_every=1"), tmp_path / "first")
    for name in ("second", "first"):
        train(settings(tmp_path, *words, "checkpoint_every=1"), tmp_path / name)
    names = {name: f"{tmp_path.name} {name}" for name in ("first", "second")}
    assert {run["name"] for run in SQLiteStorage.get_run_records("folder")} == set(names.values())
    for name, called in names.items():
        rows = SQLiteStorage.get_logs("folder", called)
        with (tmp_path / name / "metrics.csv").open() as file:
            written = {row["step"]: float(row["val/iou"]) for row in csv.DictReader(file) if row["val/iou"]}
        assert {str(row["step"]): row["val/iou"] for row in rows if "val/iou" in row} == pytest.approx(written)
        for picture in PICTURES:
            shown = next(row[picture] for row in rows if picture in row)
            assert (tmp_path / "store/media" / shown["file_path"]).is_file()
        (table,) = (row["classes"]["_value"] for row in rows if "classes" in row)
        assert [row["class"] for row in table] == ["a", "b", "c", "mean"]
        assert SQLiteStorage.get_run_config("folder", called)["dataset"]["name"] == "folder"


@pytest.mark.slow
def test_a_server_that_is_away_does_not_stop_a_run(tmp_path, folder_root, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = run(tmp_path, folder_root, "logger=mlflow", "logger.mlflow.tracking_uri=http://127.0.0.1:9")
    assert sum("logger.mlflow can't be used" in record.message for record in caplog.records) == 1
    assert (folder / "summary.json").is_file()


class Moody(Logger):
    """Works for some calls."""

    name, version = "moody", 0

    def __init__(self, calls=0):
        super().__init__()
        self.left, self.seen = calls, []

    def log_metrics(self, metrics, step=None):
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("server gone\nlong story")
        self.seen.append((metrics, step))

    def log_hyperparams(self, params):
        pass


def test_a_logger_that_fails_is_left_alone_after_one_warning(caplog):
    inner = Moody(calls=2)
    logger = SideLogger("moody", lambda: inner)
    for step in range(5):
        logger.log_metrics({"a": 1.0}, step)
    logger.finalize("success")
    logger.close()
    assert [step for _, step in inner.seen] == [1, 2]  # the steps that were done
    assert [record.message.count("server gone)") for record in caplog.records] == [1]
    assert "long story" not in caplog.text


def test_a_logger_that_cannot_be_made_is_left_alone(caplog):
    def fail():
        raise TimeoutError("no route")

    logger = SideLogger("far", fail)
    logger.log_metrics({"a": 1.0}, 0)
    logger.log_metrics({"a": 1.0}, 1)
    assert len(caplog.records) == 1


def test_a_logger_that_takes_no_pictures_gets_none(tmp_path, caplog):
    inner = Moody(calls=1)
    logger = SideLogger("moody", lambda: inner)
    logger.show("windows", tmp_path / "none.png", 1)
    logger.tabulate("classes", [{"a": 1}], 1)
    logger.log_metrics({"a": 1.0}, 0)
    assert [step for _, step in inner.seen] == [1]  # still in use
    assert not caplog.records
