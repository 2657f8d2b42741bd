"""Work in a process of its own: its result, its faults, and that torch stays out of the one that asks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch  # noqa: F401

from rsseg.apart import call_apart
from rsseg.comparison.records import RecordError
from rsseg.contract import InputError

SCRIPT = """
import logging, os, sys
from pathlib import Path
from rsseg.apart import call_apart
from rsseg.contract import InputError

logging.basicConfig(level=logging.INFO)
assert call_apart("os", "getpid") != os.getpid()
call_apart("logging", "info", "logged apart")
for module, function, given in (("rsseg.comparison.records", "load_records", Path("nowhere")), ("os", "_exit", 1)):
    try:
        call_apart(module, function, given)
    except InputError as error:
        print(type(error).__name__, error)
assert call_apart("torch", "get_num_threads") > 0
assert "torch" not in sys.modules
"""


def test_a_process_of_its_own_gives_results_and_faults():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    logged, first, second = done.stdout.splitlines()
    assert logged == "logged apart"
    assert first == "InputError nowhere has no records: train it again with record.enabled=true"
    assert second == "InputError the process of _exit was ended from outside: is there too little memory?"


def test_where_torch_is_imported_already_no_process_is_started():
    assert call_apart("os", "getpid") == os.getpid()
    with pytest.raises(InputError, match="nowhere has no records") as caught:
        call_apart("rsseg.comparison.records", "load_records", Path("nowhere"))
    assert not isinstance(caught.value, RecordError)
