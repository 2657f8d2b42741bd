"""Finished runs made up for tests of comparisons: folders and records as a run writes them, from a few thousand pixels.

The posterior of every pixel is known. Cross-entropy's logits are that posterior's, blurred; Dice's are the same, moved up,
which is better at 0.5 and the same at a tuned threshold; focal's are blurred more, which no threshold mends.
"""

import copy
import json
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import yaml

from rsseg.comparison.findings import Findings
from rsseg.comparison.records import ABOUT, FOLDER, FORMAT, PLACES, POINTS, Records, half_quality, write_arrays
from rsseg.comparison.runs import Run
from rsseg.comparison.selection import Comparison
from rsseg.comparison.tuning import shared, tune
from rsseg.config.plan import Plan
from rsseg.metrics import SampledLogits, metrics
from rsseg.metrics.calibration import calibration_sums
from rsseg.metrics.scores import class_counts
from rsseg.task import Binary, Multiclass, Regression

BINARY = Binary(("building",))
FOUR = Multiclass(("land", "water", "road", "roof"))
PANEL = ["ce", "dice", "jaccard"]
MOVED = {"ce": (0.0, 0.5), "dice": (1.1, 0.5), "ce_dice": (0.5, 0.5), "focal": (0.0, 1.6), "lovasz": (1.3, 0.7)}
TERMS = {"ce_dice": ["ce", "dice"]}
TARGETS = {
    "ce": "CrossEntropy", "dice": "Dice", "focal": "Focal", "lovasz": "Lovasz", "weighted_ce": "CrossEntropy",
    "mse": "MSE", "mae": "MAE", "huber": "Huber",
}  # fmt: skip
PIXELS = 3000


def pixels(task, loss, seed, scene, progress, absent=False):
    """Logits ``[N, K]`` and labels ``[N]`` of one scene at one checkpoint: labels depend on the scene alone.

    `absent`: the last class never occurs.
    """
    world, trained = np.random.default_rng([7, scene]), np.random.default_rng([seed, scene])
    moved, blur = MOVED[loss]
    truth = world.normal(-2.2 + 0.8 * world.normal(), 1.8, (PIXELS, task.channels))
    if task.kind == "multiclass":
        truth[:, 0] += 3.0
        truth[:, -1] -= 40.0 * absent
        label = (truth + world.gumbel(size=truth.shape)).argmax(1)
        shift = np.array([0.0, *[moved] * (task.channels - 1)])
    else:
        label = (world.random(PIXELS) < 1 / (1 + np.exp(-truth[:, 0]))).astype(int)
        shift = np.array([moved])
    shift = shift + 0.12 * np.random.default_rng(seed).normal()
    return truth * progress + shift + (blur + 2 * (1 - progress)) * trained.normal(size=truth.shape), label


def confusion(task, logits, label):
    if task.kind == "multiclass":
        return np.bincount(label * task.channels + logits.argmax(1), minlength=task.channels**2).reshape(1, task.channels, -1)
    return np.bincount(label * 2 + (logits[:, 0] > 0), minlength=4).reshape(1, 2, 2)


def values(task, logits, label):
    """Cross-entropy, soft Dice and soft Jaccard."""
    if task.kind == "multiclass":
        p, y = torch.tensor(logits).softmax(1).numpy(), np.eye(task.channels)[label]
    else:
        p, y = 1 / (1 + np.exp(-logits)), label[:, None]
    right = np.where(y == 1, p, 1 - p) if task.channels == 1 else (p * y).sum(1)
    both, either = (p * y).sum(0), (p + y).sum(0)
    return [-np.log(right + 1e-9).mean(), 1 - (2 * both / either).mean(), 1 - (both / (either - both)).mean()]


def histogram(logits, label):
    place = np.clip(np.ceil((logits[:, 0] + 16) * 8) - 1, 0, 255).astype(int)
    return np.bincount(label * 256 + place, minlength=512).reshape(1, 2, 256)


def at_tuned(task, sample, scenes, first, metric, classes=None):
    """The confusion matrices of all pixels of each scene at what was tuned on the half of the scenes that it is not in."""
    classes = np.ones(task.channels, dtype=bool) if classes is None else classes
    of_first, of_second = (tune(sample, task, part, classes, metric) for part in (first, ~first))
    moved = [of_second if here else of_first for here in first]
    sign = 1 if task.exclusive else -1  # biases are added, thresholds exceeded
    return np.array([confusion(task, logits + sign * m, label) for (logits, label), m in zip(scenes, moved, strict=True)])


def make_chosen(task, loss, seed, scenes=6, absent=False, first=None, empty=()):
    """What is counted once training is over, of one checkpoint that both halves have chosen.

    `empty`: scenes without a pixel of the last class.
    """
    last = [pixels(task, loss, seed, s, 1, absent) for s in range(scenes)]
    last = [(z, np.where(y == task.labels - 1, 0, y) if s in empty else y) for s, (z, y) in enumerate(last)]
    first = np.arange(scenes) % 2 == 0 if first is None else first
    logits, label = (np.concatenate(x) for x in zip(*last, strict=True))
    where, some = np.repeat(np.arange(scenes), PIXELS), np.arange(len(label))
    if task.exclusive:
        some = np.random.default_rng([seed, 99]).choice(len(where), min(4000, len(where)), replace=False)
    weight = np.full(len(some), len(where) / len(some))
    sample = SampledLogits(logits[some], label[some], 0 * some, where[some], weight)
    matrices = np.array([confusion(task, *scene) for scene in last])
    counts = np.full((len(POINTS), scenes, task.channels, 4), np.nan)
    counts[0] = fixed = class_counts(matrices, task)
    counts[3] = np.append(fixed[..., :3] // [9, 4, 4], 0 * fixed[..., :1], axis=-1)
    classes = shared(fixed[..., 0] + fixed[..., 2] > 0, first)
    untuned = "" if not first.all() and classes.any() else "no class occurs in both halves of the scenes"
    for i, metric in enumerate(("iou", "dice")):
        if not untuned:
            counts[1 + i] = class_counts(at_tuned(task, sample, last, first, metric, classes), task)
    calibration = {} if task.exclusive else calibration_sums(np.array([histogram(*scene) for scene in last]), task)
    return {"chosen": counts, "calibration": calibration, "untuned": untuned}


def make_records(task, loss, seed, scenes=6, steps=(100, 200, 300, 400), absent=False, groups=None, first=None):
    """The records of a run whose last checkpoint is its best; `groups`: of the scenes, each its own by default."""
    seen = [[pixels(task, loss, seed, s, (i + 1) / len(steps), absent) for s in range(scenes)] for i in range(len(steps))]
    first = np.arange(scenes) % 2 == 0 if first is None else first
    names = [f"scene_{s}" for s in range(scenes)]
    each = np.array([[values(task, *scene) for scene in row] for row in seen])  # [V, S, panel]
    rng = np.random.default_rng([seed, 99])
    rng.choice(scenes * PIXELS, min(4000, scenes * PIXELS), replace=False)
    counts = class_counts(np.array([[confusion(task, *scene) for scene in row] for row in seen]), task)  # [V, S, C, 4]
    terms = TERMS.get(loss, [loss])
    norms = np.array([[0.4 / (i + 1), 0.1 + 0.05 * i][: len(terms)] for i in range(len(steps))]) * rng.uniform(0.9, 1.1)
    cosines = np.full((len(steps), len(terms), len(terms)), 0.6)
    halves = np.stack([each[:, half].mean(1) for half in (first, ~first) if half.any()] or [], axis=-1)
    by_half = np.concatenate([halves, np.full((*halves.shape[:2], 2 - halves.shape[2]), np.nan)], axis=-1)
    own = by_half[:, PANEL.index(loss)] if loss in PANEL else np.full((len(steps), 2), np.nan)
    return Records(
        scenes=names, groups=np.array(groups or names), first=first, task=task, terms=terms, panel=PANEL, steps=np.array(steps),
        counts=counts, quality=half_quality(metrics(task)[task.score], counts, first), own=own, values=by_half,
        gain=np.full_like(norms, np.nan),
        gradient={"logits": (norms, cosines), "layer": (norms**0.5, cosines)},
        **make_chosen(task, loss, seed, scenes, absent, first),
    )  # fmt: skip


HEIGHT = Regression(("height",), units=("m",))
SPREAD = {"mse": (0.0, 1.0), "huber": (0.2, 1.1), "mae": (-0.9, 1.2)}
"""Mean and deviation of each loss's errors, in metres."""


def heights(loss, seed, scene, progress=1.0):
    """Predicted and true heights ``[N]`` of a scene: errors are Gaussian, and larger in harder scenes and early in training."""
    world, trained = np.random.default_rng([8, scene]), np.random.default_rng([seed, scene])
    mean, deviation = SPREAD[loss]
    truth, hard = world.gamma(2, 2, PIXELS), world.lognormal(0, 0.3)
    return truth + mean + hard * deviation * (2 - progress) * trained.normal(size=PIXELS), truth


def error_sums(predicted, truth):
    error = predicted - truth
    return [len(error), error.sum(), abs(error).sum(), (error**2).sum(), truth.sum(), (truth**2).sum()]


def make_height_records(loss, seed, scenes=6, steps=(100, 200, 300, 400)):
    """The records of a regression whose last checkpoint is its best."""
    sums = np.array([[[error_sums(*heights(loss, seed, s, step / steps[-1]))] for s in range(scenes)] for step in steps])
    norms, first = np.full((len(steps), 1), 0.3), np.arange(scenes) % 2 == 0
    gradient = dict.fromkeys(("logits", "layer"), (norms, np.ones((len(steps), 1, 1))))
    names = [f"scene_{s}" for s in range(scenes)]
    return Records(
        scenes=names, groups=np.array(names), first=first, task=HEIGHT, terms=[loss], panel=[], steps=np.array(steps),
        counts=sums, quality=half_quality(metrics(HEIGHT)["rmse"], sums, first), values=np.zeros((len(steps), 0, 2)),
        own=np.stack([sums[:, half, 0, 3].sum(1) / sums[:, half, 0, 0].sum(1) for half in (first, ~first)], axis=-1),
        gradient=gradient, gain=np.full_like(norms, np.nan),
    )  # fmt: skip


def class_scores(task, counts):
    """Two scores of each class at every validation ``[V, K]`` by name."""
    if task.real:
        number, _, absolute, squares = np.moveaxis(counts.sum(1), -1, 0)[:4]
        return {"rmse": np.sqrt(squares / number), "mae": absolute / number}
    hits, wrong, missed, *_ = np.moveaxis(counts.sum(1), -1, 0)
    iou = np.where(hits + missed > 0, hits / np.maximum(hits + wrong + missed, 1), np.nan)
    return {"iou": iou, "dice": 2 * iou / (1 + iou)}


def write_run(folder, task, loss, seed, records, overrides=(), fingerprint="v1", loss_terms=None, **changes):
    """The files of a finished run; `changes` go into its config."""
    folder.mkdir(parents=True)
    scores = class_scores(task, records.counts)
    terms = {name: {"_target_": f"rsseg.losses.{TARGETS[name]}", "weight": 1.0} for name in TERMS.get(loss, [loss])}
    config = {
        "loss": {"terms": loss_terms or terms},
        "dataset": {"name": "made_up", "task": task.kind, "classes": list(task.classes), "bands": [1],
                    "units": list(task.units) if task.real else None},
        "model": {"encoder": "resnet18", "heads": {"mask": {}}}, "optimizer": {"lr": 1e-3}, "seed": seed, "steps": 400,
        "batch_size": 8, "window": 64, **changes,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    origin = {
        "started": "2026-01-01T00:00:00+00:00", "overrides": [f"loss={loss}", f"seed={seed}", *overrides], "loss": loss,
        "git": {"commit": "c0ffee", "changed": False}, "rsseg": "0.1.0", "python": "3.11.0", "platform": "Linux",
        "libraries": {"torch": "2.0"}, "seed": seed,
    }  # fmt: skip
    data = {
        "mean": [100.0],
        "std": [20.0],
        "positives": [1] * task.channels,
        "valid": [9] * task.channels,
        "fingerprint": {"train": "t1", "val": fingerprint},
        "scenes": {"train": ["a"], "val": records.scenes},
        "groups": {"train": ["a"], "val": records.groups.tolist()},
    }
    means = {name: float(np.nanmean(value[-1])) for name, value in scores.items()}
    summary = means | {f"scene_{k}": v for k, v in means.items()}
    summary |= {"accuracy": 0.9, "finished": "2026-01-01T01:00:00+00:00", "steps": config["steps"], "seconds": 12.5}
    for name, content in (("run", origin), ("data", data), ("summary", summary)):
        (folder / f"{name}.json").write_text(json.dumps(content))


def write_records(run, records):
    """The files of a run's records."""
    folder = run / FOLDER
    folder.mkdir()
    head = {"task": records.task.kind, "classes": list(records.task.classes), "terms": records.terms, "panel": records.panel}
    about = {"format": FORMAT, "scenes": records.scenes, "groups": records.groups.tolist(), "heads": {"mask": head}}
    (folder / ABOUT).write_text(json.dumps(about | {"first_half": records.first.tolist()}))
    for i, step in enumerate(records.steps):
        arrays = {name: getattr(records, name)[i] for name in ("quality", "counts", "values", "own")} | {"step": step}
        for place in PLACES:
            norms, cosines = records.gradient[place]
            arrays |= {f"{place}.norm": norms[i], f"{place}.cosine": cosines[i]}
        write_arrays(folder / f"step-{step:06d}.npz", {f"mask/{name}": array for name, array in arrays.items()})
    found = {"counts": records.chosen, "untuned": np.array(records.untuned), **records.calibration}
    found |= {"steps": records.steps[[-1, -1]], "lost": np.zeros(len(records.scenes), dtype=int)}
    write_arrays(folder / "crossed.npz", {f"mask/{name}": array for name, array in found.items()})


def changed(thing, **values):
    """A copy of an object with other values of what it holds, or computes when it is asked for."""
    other = copy.copy(thing)
    vars(other).update(values)
    return other


def make_sweep(root, monkeypatch, task=BINARY, losses=tuple(MOVED), seeds=(1, 2, 3, 4, 5), **options):
    """Runs of losses x seeds below a folder; `load_records` finds their records."""
    kept = {}
    for loss in losses:
        for seed in seeds:
            folder = root / f"loss={loss},seed={seed}"
            make = make_height_records if task.real else partial(make_records, task)
            kept[folder] = make(loss, seed, **options)
            write_run(folder, task, loss, seed, kept[folder])
    monkeypatch.setattr("rsseg.comparison.runs.load_records", lambda folder, head, split="val": kept[folder])
    return kept


def label_counts(iou, pixels=1000):
    """Counts ``[..., 4]`` of labels with these IoUs: so many pixels, no false alarm, and nine times as many of the rest."""
    iou, whole = np.broadcast_arrays(np.asarray(iou, dtype=float), np.asarray(pixels, dtype=float))
    return np.stack([iou * whole, 0 * whole, (1 - iou) * whole, 9 * whole], axis=-1)


def height_sums(rmse, pixels=1000):
    """Error sums ``[..., 6]`` of heights with these errors; the target has a variance of 4."""
    rmse, whole = np.broadcast_arrays(np.asarray(rmse, dtype=float), np.asarray(pixels, dtype=float))
    return np.stack([whole, 0 * whole, 0.8 * rmse * whole, rmse**2 * whole, 0 * whole, 4 * whole], axis=-1)


def steady(means, seeds=5, scenes=8, of_seeds=0.001, of_scenes=0.001):
    """Scores ``[L, R, S]`` with these means; seeds and scenes move each loss in a way of its own, by so much."""
    rng = np.random.default_rng(5)

    def moves(*shape):
        drawn = rng.normal(size=shape)
        drawn -= drawn.mean(-1, keepdims=True)
        return drawn / np.maximum(drawn.std(-1, keepdims=True), 1e-12)

    means = np.asarray(means, dtype=float)
    by_seed, by_scene = moves(len(means), seeds), moves(len(means), scenes)
    return means[:, None, None] + of_seeds * by_seed[:, :, None] + of_scenes * by_scene[:, None]


def counted_records(counts, task=BINARY, tuned=None, groups=None, first=None, seen=None, untuned="", calibrated=True):
    """The records of a run with these counts ``[S, C, N]`` by checkpoints of the other half; halves are alternate groups.

    `tuned`: counts at tuned thresholds. `seen`: counts ``[V, S, C, N]`` of the validations; two with the first one best.
    """
    counts = np.asarray(counts, dtype=float)
    scenes = len(counts)
    names = [f"scene_{s}" for s in range(scenes)]
    areas = list(dict.fromkeys(groups or names))
    first = np.array([areas.index(g) % 2 == 0 for g in groups or names]) if first is None else first
    seen = np.stack([counts, counts]) if seen is None else seen
    points = np.full((len(POINTS), *counts.shape), np.nan)
    points[[0, 3]] = counts
    if tuned is not None:
        points[1:3] = tuned
    sums = calibration_sums(np.ones((scenes, task.channels, 2, 256)), task) if calibrated and not task.real else {}
    steps = 100 * np.arange(1, len(seen) + 1)
    return Records(
        scenes=names, groups=np.array(groups or names), first=first, task=task, terms=["ce"], panel=["ce"], steps=steps,
        counts=seen, quality=half_quality(metrics(task)[task.score], seen, first), values=np.ones((len(seen), 1, 2)),
        own=np.ones((len(seen), 2)), gradient=dict.fromkeys(("logits", "layer"), (np.ones((len(seen), 1)),) * 2),
        gain=np.full((len(seen), 1), np.nan),
        chosen=points, calibration=sums, untuned=untuned,
    )  # fmt: skip


def made_run(label, seed, records, **changes):
    """A run with these records, without a folder."""
    run = Run.__new__(Run)
    origin = {"git": {"commit": "c0ffee", "changed": False}, "platform": "Linux", "python": "3.11.0"}
    config = SimpleNamespace(steps=400, dataset={"folds": None})
    vars(run).update(
        folder=Path(f"loss={label},seed={seed}"), heads=["mask"], head="mask", config=config, origin=origin,
        loss=label, losses={"terms.a._target_": TARGETS.get(label, label)}, settings={}, seed=seed, fold=None, rate=0.001,
        label=label, task=records.task, without=[],
        data={"scenes": {"train": ["a", "b", "c"], "val": records.scenes}}, summary={"steps": 400, "seconds": 360.0},
        records=records,
    )  # fmt: skip
    vars(run).update(changes)
    return run


def made_comparison(rows, **changes):
    """A comparison of runs ``[losses][seeds]``, as a sweep's."""
    every = [run for row in rows for run in row]
    plan = Plan({run.folder: {"loss": run.label, "seed": str(run.seed)} for run in every}, {}, [["loss=ce,dice", "seed=1,2,3"]])
    given = {"left_out": [], "rates": {}, "plan": plan, "design": [], "different": [], "failed": {}, "unfinished": {}}
    return Comparison(rows, **{**given, **changes})


def made_findings(
    counts, tuned=None, labels=("ce", "dice", "focal", "lovasz"), metric="", equal_within=0.01, run=(), **options
):
    """Findings of runs with these counts ``[L, R, S, C, N]``, of seeds 1, 2, ...

    `run`: what all runs have, as `made_run` takes it; `options` go to `counted_records`, and what `Comparison` has to that.
    """
    changes = {name: options.pop(name) for name in list(options) if name in Comparison.__dataclass_fields__}
    losses, seeds = counts.shape[:2]
    rows = [[None] * seeds for _ in range(losses)]
    for i, j in product(range(losses), range(seeds)):
        records = counted_records(counts[i, j], tuned=None if tuned is None else tuned[i, j], **options)
        rows[i][j] = made_run(labels[i], j + 1, records, **dict(run))
    return Findings(made_comparison(rows, **changes), metric, equal_within=equal_within)


def of_label(iou, tuned=None, pixels=1000, **options):
    """Findings of one label's IoUs ``[L, R, S]``, and those at tuned thresholds."""
    after = None if tuned is None else label_counts(tuned, pixels)[..., None, :]
    return made_findings(label_counts(iou, pixels)[..., None, :], after, **options)
