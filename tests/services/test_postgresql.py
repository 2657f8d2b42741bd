"""Searches by several processes at once, whose study lies on a PostgreSQL server."""

import json
import multiprocessing
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from optuna import load_study
from test_run import TINY, folder_data
from tiny import CONFIGS

from rsseg.config.search import Search
from rsseg.search import open_study

SCRIPT = Path(__file__).with_name("postgresql.sh")
WEIGHT = "loss.terms.dice.weight"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server():
    """The URL of a database on a server that is started and stopped."""
    pytest.importorskip("psycopg")
    if not (shutil.which("initdb") or list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))):
        pytest.skip("PostgreSQL's server is not installed (Debian: postgresql)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to PostgreSQL's user
        subprocess.run([SCRIPT, "start", folder, str(port)], check=True)
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        subprocess.run([SCRIPT, "stop", folder], check=True)


def words(folder_root, tmp_path):
    return [*TINY, *folder_data(folder_root), f"output={tmp_path}", "loss=ce_dice", f"{WEIGHT}=interval(0,1)"]


def test_processes_that_open_a_new_study_at_once(server, folder_root, tmp_path):
    """Each would make the tables of the empty database."""
    fork = multiprocessing.get_context("fork")
    wanted = Search(words(folder_root, tmp_path), study="new", storage=server, trials=3)
    wanted.run_folder(wanted.first())  # composed once, so that nothing but the database is waited for
    barrier = fork.Barrier(4)

    def open_it():
        barrier.wait()
        open_study(wanted)

    openers = [fork.Process(target=open_it) for _ in range(4)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert [opener.exitcode for opener in openers] == [0] * 4
    assert open_study(wanted).user_attrs["search"] == wanted.identity()


def test_two_searches_share_a_study(server, folder_root, tmp_path):
    shared = [*words(folder_root, tmp_path), f"storage={server}", "study=shared", "trials=3"]
    searches = [
        subprocess.Popen(
            [sys.executable, "scripts/search.py", *shared],
            cwd=CONFIGS.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [search.communicate(timeout=500)[0] for search in searches]
    assert [search.returncode for search in searches] == [0, 0], said
    trials = load_study(study_name="shared", storage=server).get_trials()
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert len(done) == 3
    for trial in done:
        folder = Path(trial.user_attrs["folder"])
        assert folder.name == f"{WEIGHT}={trial.params[WEIGHT]}"
        assert json.loads((folder / "summary.json").read_text())["iou"] == trial.value
    assert len((tmp_path / "search/shared/trials.csv").read_text().splitlines()) == 1 + len(done)
