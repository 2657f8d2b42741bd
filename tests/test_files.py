"""Files that are whole or as they were, one line for what keeps them from being written, and locks."""

import csv
import errno
import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsseg.contract import InputError
from rsseg.files import (
    LockedError,
    UnwritableError,
    as_cell,
    atomic_write,
    file_error,
    lock,
    read_json,
    remove_parts,
    write_csv,
    write_json,
    write_table,
    write_text,
)

NAMES = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "'x", "''x", "road", "", "a,b", 'a"b', "a\nb", "Gebäude", "\u2028"]


def python(code, *words, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], env={**os.environ, **environment}, capture_output=True, text=True
    )


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "deep" / "er" / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError), atomic_write(path) as part:
        part.write_text("half \ud800", encoding="utf-8")
    assert path.read_text() == "old"
    with atomic_write(path) as part:
        part.write_text("new")
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
    assert path.read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_device_or_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnwritableError, match=r"pipe can't be written \(it is a device or a pipe; give another name\)"):
        write_text(tmp_path / "pipe", "road")
    assert (tmp_path / "pipe").is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_what_a_killed_process_leaves_is_hidden_keeps_its_suffix_and_is_removed_in_time(tmp_path):
    code = "import os, sys; from pathlib import Path; from rsseg.files import atomic_write\n"
    code += "with atomic_write(Path(sys.argv[1])) as part: part.write_text('half'); os._exit(1)"
    for _ in range(2):
        assert python(code, tmp_path / "scene.tif").returncode == 1
    left = list(tmp_path.iterdir())
    assert len(left) == 2
    assert all(path.name.startswith(".scene.") and path.suffix == ".tif" for path in left)
    os.utime(left[0], (time.time() - 7200,) * 2)
    folder = tmp_path / ".scenes.abc.part"
    (folder / "images").mkdir(parents=True)
    os.utime(folder, (time.time() - 7200,) * 2)  # what lies in it is younger
    remove_parts(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([left[1], folder])
    remove_parts(tmp_path, older=0)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    def write(i):
        with atomic_write(tmp_path / "a.txt") as part:
            for _ in range(50):
                with part.open("a") as file:
                    file.write(str(i))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    text = (tmp_path / "a.txt").read_text()
    assert (len(text), len(set(text))) == (50, 1)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_takes_no_more_leaves_the_file_as_it_was(tmp_path):
    """A limit on the size of files stands in for the full disk, which needs a superuser to make."""
    write_json(tmp_path / "a.json", {"old": 1})
    code = "import resource, signal, sys; from pathlib import Path; from rsseg.files import write_json\n"
    code += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    code += "write_json(Path(sys.argv[1]), list(range(1000)))"
    done = python(code, tmp_path / "a.json")
    assert "UnwritableError" in done.stderr.splitlines()[-1]
    assert "a.json can't be written (File too large)" in done.stderr.splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert read_json(tmp_path / "a.json") == {"old": 1}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "can't be written (No space left on device): free some space"),
        (OSError(errno.EROFS, "Read-only file system"), "give a folder that can be written to"),
        (OSError("12 requested and 0 written"), "can't be written (12 requested and 0 written)"),
        (OSError(), "can't be written (OSError)"),
    ],
)
def test_an_error_of_the_file_system_is_one_line(tmp_path, error, line):
    with pytest.raises(UnwritableError) as caught, atomic_write(tmp_path / "a.txt"):
        raise error
    assert str(caught.value).startswith(f"{tmp_path / 'a.txt'} can't be written")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numpy_and_gdal_do_not_say_that_a_disk_is_full_but_it_is_seen(tmp_path, monkeypatch):
    usage = shutil_usage(free=4096)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    assert "(No space left on device): free some space" in str(file_error(tmp_path / "a.npy", OSError("12 requested")))


def shutil_usage(free):
    import shutil

    return shutil._ntuple_diskusage(10**9, 10**9 - free, free)


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(UnwritableError, match=r"(a part of this path is a file|File exists)"):
        write_text(tmp_path / "a" / "b.txt", "x")
    with pytest.raises(UnwritableError, match="give another name: this one is a folder"):
        write_text(tmp_path, "x")


def test_json_holds_no_nan_and_numbers_of_numpy_are_numbers(tmp_path):
    content = {"a": math.nan, "b": [math.inf, 1.5], "c": np.float32(0.5), "d": np.array([1, 2]), "e": (1, None), 3: "ä"}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert found == {"a": None, "b": [None, 1.5], "c": 0.5, "d": [1, 2], "e": [1, None], "3": "ä"}
    assert text.endswith("}\n")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "Expecting value"),
        (b'{"a": 1', "Expecting ',' delimiter"),
        (b"[1]", "a mapping is expected, found list"),
        (b"\xff\xfe", "codec can't decode"),
        (b"[" * 200_000, "recursion|Stack overflow"),
        (None, "No such file"),
    ],
)
def test_json_that_cannot_be_read_is_one_line(tmp_path, content, found):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=found) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path} can't be read: ")
    assert "\n" not in str(caught.value)


@given(st.text())
def test_a_cell_is_no_formula_and_is_read_back(text):
    cell = as_cell(text)
    assert cell.removeprefix("'") == text
    assert cell[:1] not in tuple("=+-@\t\r")


def test_tables_are_read_back_by_other_programs(tmp_path):
    rows = [{"=name": name, "value": -0.5} for name in NAMES]
    write_csv(tmp_path / "a.csv", rows)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["'=name"].removeprefix("'") for row in found] == NAMES
    assert {row["value"] for row in found} == {"-0.5"}
    frame = pd.DataFrame({"=1": [-1, 2], "x": [0.5, math.nan]}, index=pd.Index(["=a", "b"], name="n"))
    write_table(tmp_path / "b.csv", frame)
    assert (tmp_path / "b.csv").read_text() == "n,'=1,x\n'=a,-1,0.5\nb,2,\n"


def test_text_is_utf_8_whatever_the_locale_says(tmp_path):
    code = "import sys; from pathlib import Path; from rsseg.files import read_json, write_csv, write_json\n"
    code += "folder, name = Path(sys.argv[1]), chr(0x4E2D); write_json(folder / 'a.json', {name: chr(0xE4)})\n"
    code += "assert read_json(folder / 'a.json') == {name: chr(0xE4)}; write_csv(folder / 'a.csv', [{chr(0xE4): name}])"
    done = python(code, tmp_path, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.csv").read_bytes().decode() == "ä\r\n中\r\n"


def test_a_lock_is_one_processs_until_it_is_killed(tmp_path):
    code = "import sys; from pathlib import Path; from rsseg.files import lock\n"
    code += "with lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    path = tmp_path / "new" / "a.lock"
    other = subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match="held by another process"), lock(path):
        pass
    other.kill()
    with lock(path, wait=True), lock(path):
        other.wait()
