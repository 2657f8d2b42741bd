"""Finished runs made up for tests of comparisons: folders and records as a run writes them, from a few thousand pixels.

The posterior of every pixel is known. Cross-entropy's logits are that posterior's, blurred; Dice's are the same, moved up,
which is better at 0.5 and the same at a tuned threshold; focal's are blurred more, which no threshold mends.
"""

import copy
import json
from functools import partial

import numpy as np
import torch
import yaml

from rsseg.compare.records import Records, checkpoint_of
from rsseg.compare.tuning import scenes_bias
from rsseg.metrics import SampledLogits
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


def crossfit_bias(sample, first, metric="iou", classes=None):
    """For each scene the bias per class that was tuned on the half of the scenes it is not in."""
    classes = np.ones(sample.logits.shape[1], dtype=bool) if classes is None else classes
    return np.where(first[:, None], *(scenes_bias(sample, part, metric, classes) for part in (~first, first)))


def crossfit(task, sample, scenes, first):
    """All pixels of each scene at the argmax and at the biases that the other half's sample gives."""
    counts = {"crossfit.fixed": np.array([confusion(task, *scene) for scene in scenes])}
    for metric in ("iou", "dice"):
        pairs = zip(scenes, crossfit_bias(sample, first, metric), strict=True)
        counts[f"crossfit.{metric}"] = np.array([confusion(task, logits + bias, label) for (logits, label), bias in pairs])
    return counts


def make_snapshot(task, loss, seed, scenes=6, step=400, absent=False):
    """What is recorded of the best checkpoint, but contours: arrays by name."""
    last = [pixels(task, loss, seed, s, 1, absent) for s in range(scenes)]
    arrays = {"step": np.array(step)}
    if task.kind == "binary":
        return arrays | {"histogram": np.array([histogram(*scene) for scene in last])}
    if scenes < 2:
        return arrays
    rng = np.random.default_rng([seed, 99])
    logits, label = (np.concatenate(x) for x in zip(*last, strict=True))
    where = np.repeat(np.arange(scenes), PIXELS)
    many = min(4000, len(where))
    some = rng.choice(len(where), many, replace=False)
    sample = SampledLogits(
        *(torch.tensor(x[some]) for x in (logits, label, where)), torch.full((many,), len(where) / many, dtype=torch.float64)
    )
    return arrays | crossfit(task, sample, last, np.arange(scenes) % 2 == 0)


def make_records(task, loss, seed, scenes=6, steps=(100, 200, 300, 400), absent=False):
    """The records of a run whose last checkpoint is its best."""
    seen = [[pixels(task, loss, seed, s, (i + 1) / len(steps), absent) for s in range(scenes)] for i in range(len(steps))]
    first = np.arange(scenes) % 2 == 0
    each = np.array([[values(task, *scene) for scene in row] for row in seen])  # [V, S, panel]
    rng = np.random.default_rng([seed, 99])
    rng.choice(scenes * PIXELS, min(4000, scenes * PIXELS), replace=False)
    matrices = np.array([[confusion(task, *scene) for scene in row] for row in seen])[:, :, 0]  # [V, S, K, K]
    hits = matrices.diagonal(axis1=2, axis2=3)
    wrong, missed = matrices.sum(2) - hits, matrices.sum(3) - hits
    counts = np.stack([hits, wrong, missed, PIXELS - hits - wrong - missed], axis=-1)[:, :, -task.channels :]
    snapshot = make_snapshot(task, loss, seed, scenes, steps[-1], absent) | {"boundary": counts[-1, ..., :3] // [9, 4, 4]}
    terms = TERMS.get(loss, [loss])
    norms = np.array([[0.4 / (i + 1), 0.1 + 0.05 * i][: len(terms)] for i in range(len(steps))]) * rng.uniform(0.9, 1.1)
    cosines = np.full((len(steps), len(terms), len(terms)), 0.6)
    return Records(
        scenes=[f"scene_{s}" for s in range(scenes)], first=first, task=task, terms=terms, panel=PANEL, steps=np.array(steps),
        counts=counts.astype(float), own=None, gain=None, best=checkpoint_of(snapshot, task, first),
        values=np.stack([each[:, first].mean(1), each[:, ~first].mean(1)], axis=-1),
        gradient={"logits": (norms, cosines), "layer": (norms**0.5, cosines)},
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
    return Records(
        scenes=[f"scene_{s}" for s in range(scenes)], first=first, task=HEIGHT, terms=[loss], panel=[], steps=np.array(steps),
        counts=sums, values=np.zeros((len(steps), 0, 2)), gradient=gradient, gain=None,
        own=np.stack([sums[:, half, 0, 3].sum(1) / sums[:, half, 0, 0].sum(1) for half in (first, ~first)], axis=-1),
        best=checkpoint_of({"step": np.array(steps[-1])}, HEIGHT, first),
    )  # fmt: skip


def class_scores(task, counts):
    """Two scores of each class at every validation ``[V, K]`` by name, and the pixels of each ``[K]``."""
    if task.real:
        number, _, absolute, squares = np.moveaxis(counts.sum(1), -1, 0)[:4]
        return {"rmse": np.sqrt(squares / number), "mae": absolute / number}, number[-1]
    hits, wrong, missed, *_ = np.moveaxis(counts.sum(1), -1, 0)
    iou = np.where(hits + missed > 0, hits / np.maximum(hits + wrong + missed, 1), np.nan)
    return {"iou": iou, "dice": 2 * iou / (1 + iou)}, (hits + missed)[-1]


def write_run(folder, task, loss, seed, records, overrides=(), fingerprint="v1", loss_terms=None, **changes):
    """The files of a finished run; `changes` go into its config."""
    folder.mkdir(parents=True)
    scores, number = class_scores(task, records.counts)
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
    }
    means = {name: float(np.nanmean(value[-1])) for name, value in scores.items()}
    summary = means | {f"scene_{k}": v for k, v in means.items()}
    summary |= {"accuracy": 0.9, "finished": "2026-01-01T01:00:00+00:00", "steps": config["steps"], "seconds": 12.5}
    for name, content in (("run", origin), ("data", data), ("summary", summary)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    one, other = scores.values()
    own = one.mean(-1) if task.real else records.values.mean(-1)[:, PANEL.index(loss) if loss in PANEL else 0]
    rows = [f"{s - 1},{v},{np.nanmean(i)},{np.nanmean(d)}" for s, v, i, d in zip(records.steps, own, one, other, strict=True)]
    (folder / "metrics.csv").write_text("\n".join([f"step,val/loss,{','.join(f'val/mask/{n}' for n in scores)}", *rows]) + "\n")
    lines = [f"mask,{c},{i},{d},{int(n)}" for c, i, d, n in zip(task.classes, one[-1], other[-1], number, strict=True)]
    mean = f"mask,,{','.join(map(str, means.values()))},{int(number.sum())}"
    (folder / "classes.csv").write_text("\n".join([f"head,class,{','.join(scores)},pixels", *lines, mean]) + "\n")


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
    monkeypatch.setattr("rsseg.compare.runs.load_records", lambda folder, head: kept[folder])
    return kept
