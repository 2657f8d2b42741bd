"""Compare what this tree computes with what an older commit computes: python tests/same_as_before.py

    python tests/same_as_before.py                       all cases against the commit before the rebuild
    python tests/same_as_before.py only=sampler,loss/ce  the cases whose names contain one of these words, and what they need
    python tests/same_as_before.py commit=HEAD~1         another commit; needs a full history (no shallow clone)

Both sides run the same tiny configs on one thread of this machine, through their own command lines, on the same files.
Compared are the weights of the last and the best checkpoint with their steps, metrics.csv, classes.csv, the scores of
summary.json, threshold.json, records/, 50 windows of every sampler and augmentation as network and loss get them, maps,
and the tables of evaluate, describe and compare. "same" means bit by bit. A case that was ended by an error shows the last
line that it printed. Where gradients are rounded otherwise, twenty steps with two windows each enlarge that to anything: the
row of metrics.csv then says how far the first step's losses are apart; compare later work with the commit that changed it.

The older side's results are kept in ~/.cache/rsseg_same_as_before, by commit and by the cases of this file, so that only
the first call runs both sides (each about five minutes on a quiet core). The working tree is compared as it lies there,
committed or not; it is copied first, so that it may be edited meanwhile. Exit status 0: everything is the same; 1: something
is not.

This is a tool for people who change the inside of rsseg; pytest does not collect it.
"""

import csv
import fcntl
import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve()
TREE = HERE.parent.parent
CACHE = Path("~/.cache/rsseg_same_as_before").expanduser()
CHANGING = ("seconds", "time", "finished", "started", "memory", "commit")  # in names of values that differ from run to run
SAMPLE = 1000  # elements of a large array that are kept beside its hash, to say how large a difference is

Found = dict[str, np.ndarray]
"""What a case gave: arrays by "what: part", such as "metrics.csv: val/loss"."""


# ---- the cases ----------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """One command of one side.

    Attributes:
        name: Its name, and that of the folder that it writes.
        script: The script; "made_up" stands for a comparison of the runs that the tree's tests/run_folders.py makes up.
        words: Its arguments; ``{data}`` is the folder of the datasets, ``{work}`` that of all cases of this side.
        needs: Other cases that come before.
        windows: Keep the first 50 windows as network and loss get them.
        cut: End the process at this step, as a power cut would.
    """

    name: str
    script: str
    words: list[str]
    needs: list[str] = field(default_factory=list)
    windows: bool = False
    cut: int | None = None


TINY = [
    "model.encoder=test_resnet", "window=32", "batch_size=2", "steps=20", "validations=2", "workers=0", "pictures=0",
    "trainer=cpu", "trainer.precision=32-true", "trainer.log_every_n_steps=1", "output={work}/output",
]  # fmt: skip
SPLIT = "dataset.source.split={train: 0.7, val: 0.3}"
DATA = {
    "multiclass": ["dataset=folder", "dataset.source.root={data}/folder", "dataset.classes=[a,b,c]", SPLIT],
    "multilabel": [
        "dataset=folder", "dataset.source.root={data}/multilabel", "dataset.task=multilabel", "dataset.classes=[a,b]", SPLIT,
    ],
    "binary": ["dataset=inria", "dataset.source.root={data}/inria"],
    "bands": ["dataset=l8biome", "dataset.source.root={data}/l8biome"],
}  # fmt: skip
LOSSES = {
    "multiclass": (
        "ce weighted_ce focal dice jaccard tversky focal_tversky lovasz ce_dice focal_dice ce_lovasz ce_lovasz_binned "
        "ce_dice_boundary dice_cl_dice"
    ),
    "binary": "bce ce weighted_ce focal dice tversky lovasz ce_dice_boundary",
    "multilabel": "bce ce_dice focal lovasz",
}
AUGMENTATIONS = "blur cutout d4 full noise none paste radiometry scale_crop"
SAMPLERS = "balanced by_scene near_border undersample uniform"
CHOICES = [
    "model=deeplabv3plus", "model=segformer", "model.freeze=[encoder]", "model.dropout=0.2", "optimizer=adam", "optimizer=lamb",
    "optimizer=lion", "optimizer=nadamw", "optimizer=sgd", "scheduler=constant", "scheduler=cosine_warmup",
    "scheduler=one_cycle", "scheduler=plateau", "scheduler=poly", "callbacks=ema", "callbacks=early_stopping",
    "callbacks=lr_finder", "trainer.accumulate_grad_batches=2", "cache=ram", "record.gain=true", "record.enabled=false",
]  # fmt: skip
DATASETS = "deepglobe gid15 landcoverai loveda potsdam sen1floods11 vaihingen"
RESUMED = {
    "plain": [],
    "ema": ["callbacks=[ema,early_stopping]", "scheduler=plateau"],
    "dropout": ["model.dropout=0.2", "augment=full"],
}


def cases() -> Iterator[Case]:
    """All cases, those that others need before them."""

    def train(name: str, data: str, *words: str, **options: Any) -> Case:
        folder = f'hydra.run.dir="{{work}}/{name}"'
        return Case(name, "train.py", [*TINY, *DATA.get(data, [data]), *words, folder], **options)

    for data, losses in LOSSES.items():
        for loss in losses.split():
            yield train(f"loss/{loss}/{data}", data, f"loss={loss}")
    for choice in CHOICES:
        yield train(f"choice/{choice}", "multiclass", choice)
    fifty = ["steps=5", "batch_size=10", "validations=1"]
    for data in ("multiclass", "binary", "multilabel", "bands"):
        for augment in (AUGMENTATIONS if data == "multiclass" else "full paste").split():
            yield train(f"augment/{augment}/{data}", data, *fifty, f"augment={augment}", windows=True)
        for sampler in (SAMPLERS if data in ("multiclass", "binary") else "balanced").split():
            yield train(f"sampler/{sampler}/{data}", data, *fifty, f"sampler={sampler}", "augment=none", windows=True)
    for name in DATASETS.split():
        yield train(f"dataset/{name}", f"dataset={name}", f"dataset.source.root={{data}}/{name}")
    own = ["dataset.source.root={data}/geotiff", "dataset.task=binary", "dataset.classes=[water]", SPLIT]
    yield train("dataset/geotiff", "dataset=geotiff", *own)
    names = "dataset.classes=[none,background,building,road,water,barren,forest,agriculture]"
    yield train("dataset/torchgeo", "dataset=torchgeo", "dataset.name=LoveDA", "dataset.args.root={data}/loveda", names)
    scenes = ["dataset.source.scenes={train: 2, val: 2, test: 1}", "+dataset.source.recipe.size=96"]
    yield train("dataset/synthetic", "dataset=synthetic", "dataset.source.root={work}/scenes", *scenes)
    for name, words in RESUMED.items():
        yield train(f"cut/{name}", "multiclass", "validations=4", *words, cut=13)
        yield Case(f"resume/{name}", "train.py", [f'resume="{{work}}/cut/{name}"'], needs=[f"cut/{name}"])
    runs = []
    for loss in ("ce", "dice"):
        for seed in (1, 2, 3):
            runs.append(f"sweep/loss={loss},seed={seed}")
            yield train(runs[-1], "multiclass", "validations=4", f"loss={loss}", f"seed={seed}")
    yield Case("compare/sweep", "scripts/compare.py", ["runs={work}/sweep", "out={work}/compare/sweep"], needs=runs)
    run = "run={work}/sweep/loss=ce,seed=1"
    for threshold in ("fixed", "tuned"):
        yield Case(f"evaluate/{threshold}", "scripts/evaluate.py", [run, f"threshold={threshold}"], needs=runs[:1])
        scene, out = "scene={data}/folder/images/tile0_a.tif", f"out={{work}}/predict/{threshold}/map.tif"
        yield Case(f"predict/{threshold}", "scripts/predict.py", [run, scene, out, f"threshold={threshold}"], needs=runs[:1])
    for data in ("multiclass", "binary"):
        yield Case(f"describe/{data}", "scripts/describe.py", [*TINY, *DATA[data], f"output={{work}}/describe/{data}"])
    for head in ("BINARY", "FOUR"):
        for metric in ("iou", "dice"):
            yield Case(f"compare/{head.lower()}/{metric}", "made_up", [head, f"metric={metric}"])


# ---- inside a tree: everything that knows names of rsseg ----------------------------------------------------------------


def write_data(folder: Path) -> None:
    """The datasets, by the code of the older tree's tests."""
    from layouts import LAYOUTS, own_scenes
    from tiny import checker, coloured, write_tif

    for name, write in LAYOUTS.items():
        write(folder / name, np.random.default_rng(0))
    own_scenes(folder / "geotiff", np.random.default_rng(0))
    rng = np.random.default_rng(0)
    for i in range(6):
        mask = checker(rng, 96, 3)[:80]
        image = coloured(rng, mask)
        mask[:4, :4] = 255
        write_tif(folder / f"folder/images/tile{i}_a.tif", image)
        write_tif(folder / f"folder/masks/tile{i}_a.tif", mask[None])
        planes = np.stack([checker(rng, 64, 2), checker(rng, 64, 2)])
        write_tif(folder / f"multilabel/images/s{i}.tif", coloured(rng, planes.sum(axis=0)))
        write_tif(folder / f"multilabel/masks/s{i}.tif", planes)


def compare_made_up(folder: Path, head: str, metric: str) -> None:
    """Compare the runs that the tree's tests make up."""
    import pytest
    import run_folders

    with pytest.MonkeyPatch.context() as patch:
        run_folders.make_sweep(folder / "runs", patch, getattr(run_folders, head))
        run_script("scripts/compare.py", [f"runs={folder}/runs", f"out={folder}", metric])


def run_script(script: str, words: list[str]) -> None:
    """Run a script of the tree in this process."""
    sys.argv = [script, *words]
    sys.path.insert(0, str(Path(script).resolve().parent))
    runpy.run_path(script, run_name="__main__")


def watch(case: Case, folder: Path) -> None:
    """Let Lightning's trainer keep windows, or end the process, as a case says."""
    import lightning
    import torch

    kept: dict[str, list[np.ndarray]] = defaultdict(list)
    step: dict[str, np.ndarray] = {}

    class Watcher(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == case.cut:
                os._exit(9)
            step.clear()
            values = batch if isinstance(batch, dict) else vars(batch)
            step.update({name: values[name].numpy().copy() for name in ("k", "scene")})

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            for name, array in step.items():
                kept[name].append(array)
            if case.windows:
                np.savez(folder / "windows.npz", **{name: np.concatenate(arrays) for name, arrays in kept.items()})

    def look(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        """The first convolution's image and the first loss's target of a step."""
        for tensor in inputs:
            if isinstance(tensor, torch.Tensor) and tensor.ndim >= 3:
                name = "image" if tensor.is_floating_point() else "target"
                if name == "target" or isinstance(module, torch.nn.Conv2d):
                    step.setdefault(name, tensor.detach().numpy().copy())

    def fit(trainer: Any, *args: Any, **options: Any) -> Any:
        trainer.callbacks.append(Watcher())
        with torch.nn.modules.module.register_module_forward_pre_hook(look):
            return real(trainer, *args, **options)

    real = lightning.Trainer.fit
    lightning.Trainer.fit = fit


def read_checkpoints(run: Path) -> Found:
    """Weights by name, and the step."""
    import torch

    found = {}
    for path in sorted((run / "checkpoints").glob("*.ckpt")):
        if path.stem not in ("best", "last"):
            continue
        content = torch.load(path, map_location="cpu", weights_only=False)
        found[f"{path.stem} step: step"] = np.array(content["global_step" if "global_step" in content else "step"])
        for name, tensor in content["state_dict"].items():
            found |= brief(f"{path.stem} weights: {name}", tensor.numpy())
    return found


def read_run(run: Path) -> Found:
    """The files of a run folder."""
    found = read_checkpoints(run)
    if (run / "metrics.csv").is_file():
        rows = list(csv.DictReader((run / "metrics.csv").open(encoding="utf-8")))
        for name in rows[0]:
            if name != "step":  # by step, so that it does not matter which values share a row
                pairs = sorted((int(row["step"]), float(row[name])) for row in rows if row[name])
                name = re.sub("^(train/balance|train|val)/mask/", r"\\1/", name)  # as a single head's values were called
                found[f"metrics.csv: {name}"] = np.array(pairs)
    for path in sorted([*run.glob("*.json"), *run.glob("records/*.json"), *run.glob("describe/*/*.json")]):
        if path.name in ("summary.json", "threshold.json", "records.json", "description.json"):
            found |= {f"{path.name}: {key}": np.array(str(value)) for key, value in flat(json.loads(path.read_text()))}
    for path in sorted((run / "records").glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays:
                found |= brief(f"records/{path.name}: {name}", arrays[name])
    return found


# ---- inside a tree: running and reading ---------------------------------------------------------------------------------


def inside(work: Path, data: Path, results: Path, names: list[str]) -> None:
    """Run cases of this tree, each in a process of its own that is forked when the large libraries are imported."""
    if not data.is_dir():
        write_data(data.with_name("data.part"))
        data.with_name("data.part").rename(data)
    import torch

    torch.set_num_threads(1)
    with suppress(ImportError):  # then each case takes longer
        import rsseg.run  # noqa: F401
    chosen = [case for case in cases() if case.name in names]
    for i, case in enumerate(chosen):
        begin, folder = time.monotonic(), work / case.name
        folder.mkdir(parents=True, exist_ok=True)
        child = os.fork()
        if child == 0:
            run_case(case, folder, work, data)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = read_case(case, work, data)
        found["exit status: status"] = np.array(status)
        (results / case.name).parent.mkdir(parents=True, exist_ok=True)
        np.savez(results / f"{case.name}.npz", **found)
        print(f"{i + 1:4} of {len(chosen)}  {case.name:40}{time.monotonic() - begin:6.1f} s  status {status}", flush=True)
        for run in (work / name for name in (case.name, *case.needs)):
            needed = any(run == work / other for later in chosen[i + 1 :] for other in later.needs)
            if not needed:
                shutil.rmtree(run / "checkpoints", ignore_errors=True)  # a few gigabytes together


def run_case(case: Case, folder: Path, work: Path, data: Path) -> None:
    """Run a case in this process, and end it."""
    log = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 1
    try:
        watch(case, folder)
        words = [word.replace("{data}", str(data)).replace("{work}", str(work)) for word in case.words]
        if case.script == "made_up":
            compare_made_up(folder, *words)
        else:
            run_script(case.script, words)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def read_case(case: Case, work: Path, data: Path) -> Found:
    """Everything that a case wrote."""
    folder = work / case.name
    said = (folder / "said.txt").read_text(errors="replace").strip().splitlines()
    found = {"last line: last line": np.array(said[-1] if said else "")}
    run = work / case.name.replace("resume/", "cut/")
    found |= read_run(run)
    if (folder / "windows.npz").is_file():
        with np.load(folder / "windows.npz") as arrays:
            found |= {key: value for name in arrays for key, value in brief(f"windows: {name}", arrays[name]).items()}
    tables = {path for place in (folder, run) for path in place.glob("*.csv") if path.name != "metrics.csv"}
    if case.name.startswith("evaluate/"):
        tables.add(work / f"sweep/loss=ce,seed=1/evaluation-val{'-tuned' * case.name.endswith('tuned')}.csv")
    for path in sorted(tables):
        rows = list(csv.reader(path.open(encoding="utf-8", newline="")))
        for i, name in enumerate(rows[0]):
            column = [row[i].replace(str(work), "").replace(str(data), "") for row in rows[1:]]
            found[f"{path.name}: {name}"] = np.array(column, dtype=str)
    for path in folder.glob("*.tif"):
        import rasterio

        with rasterio.open(path) as file:
            found |= brief(f"{path.name}: labels", file.read())
    return found


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Pairs of a dotted key and a value."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if pairs is None:
        yield prefix, node
    else:
        for key, value in pairs:
            yield from flat(value, f"{prefix}.{key}".lstrip("."))


def brief(name: str, array: np.ndarray) -> Found:
    """An array; of a large one its hash and some elements."""
    if array.size <= SAMPLE:
        return {name: array}
    kind = f"{array.dtype} {array.shape}"
    digest = hashlib.sha256(kind.encode() + np.ascontiguousarray(array).tobytes()).hexdigest()
    return {name: array.ravel()[:: array.size // SAMPLE], f"{name} #": np.array(digest)}


# ---- both sides ---------------------------------------------------------------------------------------------------------


def run_side(tree: Path, work: Path, data: Path, results: Path, names: Iterable[str]) -> None:
    """Run cases in a tree, in a process of its own that imports nothing from the folder of this file (-P)."""
    paths = os.pathsep.join(map(str, (tree, tree / "tests")))
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    words = [sys.executable, "-P", str(HERE), "inside", str(work), str(data), str(results), *names]
    subprocess.run(words, cwd=tree, env={**os.environ, **one, "PYTHONPATH": paths}, check=True)


def load(path: Path) -> Found:
    """What a case gave, without the folders of the sides in texts, and with what was renamed on purpose."""
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays}
    for name, array in found.items():
        if name.endswith(".csv: class"):
            found[name] = np.where(array == "mean", "", array)  # the row of means: a class may be called so
    side = re.compile(r"/\S*same_as_before\S*?/(before|now|data)\b")
    return {
        name: np.array([side.sub("", text) for text in array.ravel()]).reshape(array.shape)
        if array.dtype.kind == "U"
        else array
        for name, array in found.items()
    }


def difference(before: np.ndarray, now: np.ndarray) -> float | str | None:
    """The largest difference of two arrays, NaN like NaN; None: equal; a text: not comparable as numbers, and why."""
    if before.shape != now.shape:
        return f"shape {before.shape} -> {now.shape}"
    if before.dtype == now.dtype and before.tobytes() == now.tobytes():
        return None
    try:
        a, b = before.astype(np.float64), now.astype(np.float64)
    except ValueError:
        wrong = np.flatnonzero(before.ravel() != now.ravel())
        return f"{before.ravel()[wrong[0]]} -> {now.ravel()[wrong[0]]}" if len(wrong) else None
    if np.array_equal(a, b, equal_nan=True):
        return None
    with np.errstate(invalid="ignore"):
        gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.nan_to_num(gap, nan=np.inf).max())


def tell(case: str, before: Found, now: Found) -> Iterator[tuple[str, str, str]]:
    """Rows of case, what and verdict."""
    status, line = "exit status: status", f"it said: {now['last line: last line']}"
    if before[status] != now[status]:
        yield case, "exit status", f"{before[status]} -> {now[status]}; {line}"
    elif now[status] and not case.startswith("cut/"):
        yield case, "exit status", f"same, {now[status]}; {line}"
    parts: dict[str, list[str]] = {}
    for key in [*before, *(key for key in now if key not in before)]:
        what, part = key.split(": ", 1)
        if what not in ("exit status", "last line") and not any(word in part for word in CHANGING):
            parts.setdefault(what, []).append(part)
    for what, names in parts.items():
        keys = {name: f"{what}: {name}" for name in names}
        gone = [name for name, key in keys.items() if key not in now]
        fresh = [name for name, key in keys.items() if key not in before]
        both = [name for name in names if name not in gone and name not in fresh]
        gaps = {name: difference(before[keys[name]], now[keys[name]]) for name in both}
        differs = {name: gap for name, gap in gaps.items() if gap is not None and not name.endswith(" #")}
        hidden = {
            name: "in elements that are not kept" for name, gap in gaps.items() if gap is not None and name.endswith(" #")
        }
        differs = {name.removesuffix(" #"): gap for name, gap in hidden.items()} | differs
        numbers = [gap for gap in differs.values() if isinstance(gap, float)]
        size = f"by up to {max(numbers):.3g}" if numbers else f"({next(iter(differs.values()), None)})"
        if numbers and what == "metrics.csv":  # rounding grows with the steps, a fault is there from the first
            first = [difference(before[keys[name]][0], now[keys[name]][0]) for name in differs if name.startswith("train/")]
            size += f", at the first step by {max((gap for gap in first if isinstance(gap, float)), default=0.0):.1g}"
        verdict = [
            *([f"{len(differs)} of {len(both)} differ {size}: {some(differs)}"] if differs else []),
            *([f"missing: {some(gone)}"] if gone else []),
            *([f"new: {some(fresh)}"] if fresh else []),
        ]
        yield case, what, "; ".join(verdict) or "same"


def some(names: Iterable[str]) -> str:
    """The first few of some names."""
    listed = list(names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")


def main(words: list[str]) -> int:
    """Run what is missing and print the table; the exit status."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    if len(given) < len(words) or given.keys() - {"commit", "only"}:
        sys.exit(__doc__)
    commit = git("rev-parse", "--verify", f"{given.get('commit', '02e7a20')}^{{commit}}")
    everything = {case.name: case for case in cases()}
    chosen = [name for name in everything if any(word in name for word in given.get("only", "").split(","))]
    names = [name for name in everything if name in chosen or any(name in everything[other].needs for other in chosen)]
    if not names:
        sys.exit(f"only={given['only']}: no case's name contains that; there are {', '.join(everything)}")
    decisive = HERE.read_text(encoding="utf-8").partition("# ---- the cases")[2].partition("# ---- both sides")[0]
    old = CACHE / f"{commit[:12]}-{hashlib.sha256(decisive.encode()).hexdigest()[:12]}"
    old.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="same_as_before_"))
    with (old / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another call may be making the same results
        missing = [name for name in names if not (old / "results" / f"{name}.npz").is_file()]
        wanted = [name for name in names if any(name in (other, *everything[other].needs) for other in missing)]
        if wanted:
            tree = work / "tree"
            git("worktree", "add", "--detach", str(tree), commit)
            try:
                print(f"before: {commit[:12]}", flush=True)
                run_side(tree, work / "before", old / "data", old / "results", wanted)
            finally:
                git("worktree", "remove", "--force", str(tree))
                shutil.rmtree(work / "before", ignore_errors=True)
    print(f"now: {TREE}", flush=True)
    tree = work / "tree"
    for name in git("ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (TREE / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TREE / name, tree / name)
    run_side(tree, work / "now", old / "data", work / "results", names)
    before, now = ({name: load(place / f"{name}.npz") for name in names} for place in (old / "results", work / "results"))
    rows = [row for name in names for row in tell(name, before[name], now[name])]
    for case in names:
        same = [what for name, what, verdict in rows if name == case and verdict == "same"]
        print(f"{case:42}{f'{len(same)} parts':28}same")
        for name, what, verdict in rows:
            if name == case and verdict != "same":
                print(f"{case:42}{what:28}{verdict}")
    wrong = sum(not verdict.startswith(("same", "new: ")) for _, _, verdict in rows)
    print(f"{len(rows) - wrong} of {len(rows)} are the same as in {commit[:12]}; what the cases printed: {work}/now/*/said.txt")
    return int(wrong > 0)


def git(*words: str) -> str:
    """What git answers."""
    done = subprocess.run(["git", *words], cwd=TREE, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    if sys.argv[1:2] == ["inside"]:
        inside(*map(Path, sys.argv[2:5]), sys.argv[5:])
    else:
        sys.exit(main(sys.argv[1:]))
