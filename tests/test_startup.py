"""Commands import what they need and no more: torch and the libraries around it take seconds and hundreds of megabytes."""

import subprocess
import sys

import pytest
from run_folders import FOUR, make_records, write_records, write_run

HEAVY = {"torch", "torchmetrics", "torchvision", "torchgeo", "lightning", "timm", "segmentation_models_pytorch", "kornia"}


def imported_by(code, *words):
    """The packages that a process has imported once this code is run."""
    code = f"{code}\nprint('\\n' + ' '.join(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", f"import sys\n{code}", *map(str, words)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return {name.split(".")[0] for name in ended.stdout.splitlines()[-1].split()}


@pytest.mark.slow
def test_runs_are_compared_without_torch(tmp_path):
    for loss in ("ce", "dice"):
        for seed in (1, 2, 3):
            run = tmp_path / "runs" / f"loss={loss},seed={seed}"
            records = make_records(FOUR, loss, seed)
            write_run(run, FOUR, loss, seed, records)
            write_records(run, records)
    code = "from pathlib import Path\nfrom rsseg.answer import compare\ncompare([Path(sys.argv[1])])"
    found = imported_by(code, tmp_path / "runs")
    assert (tmp_path / "runs" / "comparison" / "report.html").is_file()
    assert {"numpy", "pandas", "matplotlib"} <= found
    assert not found & HEAVY


@pytest.mark.slow
def test_training_does_without_what_reads_vectors_and_tables():
    found = imported_by("import rsseg.run")
    assert {"torch", "lightning"} <= found
    assert not found & {"torchgeo", "geopandas", "pandas", "aiohttp"}


TRAINERS = {"lightning", "torchmetrics"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "needed", "spared"),
    [
        ("rsseg.evaluation.baselines", {"torch"}, HEAVY - {"torch"} | {"pandas", "matplotlib"}),
        ("rsseg.comparison.examples", {"torch", "matplotlib"}, TRAINERS | {"pandas", "torchgeo", "torchvision", "kornia"}),
    ],
)
def test_what_works_beside_a_comparison_does_without_trainers(module, needed, spared):
    found = imported_by(f"import {module}")
    assert needed <= found
    assert not found & spared


@pytest.mark.parametrize("module", ["rsseg.dataset_source", "rsseg.metrics", "rsseg.config.cli", "rsseg.config.search"])
def test_what_is_looked_at_before_a_run_does_without_torch(module):
    assert not imported_by(f"import {module}") & HEAVY


def test_baselines_are_fitted_without_the_compiler():
    code = """
import numpy as np
from rsseg.evaluation.baselines import fit_logistic
from rsseg.task import Binary
rng = np.random.default_rng(0)
fit_logistic(rng.normal(size=(100, 3)), rng.integers(0, 2, 100), Binary(("road",)))
assert not any(name.startswith("torch._dynamo") for name in sys.modules)"""
    assert "torch" in imported_by(code)
