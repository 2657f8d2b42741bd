"""A trained model as a graph from stored pixels to probabilities: ONNX, as Deepness in QGIS reads it, and torch.export."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rsseg.contract import InputError, first_line
from rsseg.files import atomic_write
from rsseg.inference.ensemble import Ensemble
from rsseg.inference.export import spec_record
from rsseg.task import OBJECT_PLANES

BOUND = 1e-3
"""The largest accepted difference between a graph and PyTorch, see `largest_difference`."""

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""The packages of the extra ``export``."""

BATCH = "batch"


class Graph(nn.Module):
    """One head of a trained model, optionally with its labels at a threshold for `Task.decide`."""

    threshold: Tensor | None

    def __init__(self, model: Ensemble, head: str, labels: bool, threshold: Tensor | None) -> None:
        super().__init__()
        self.model, self.head, self.labels = model, head, labels
        self.task = model.tasks[head]
        self.register_buffer("threshold", threshold)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Probabilities or values, float32 ``[B, K, H, W]``; with `labels` also labels, uint8 ``[B, *planes, H, W]``."""
        found = self.model(pixels)[self.head]
        return (found, self.task.decide(found, self.threshold).to(torch.uint8)) if self.labels else (found,)


def check_packages() -> None:
    """Refuse an export if packages for ONNX are not installed."""
    lacking = [name for name in PACKAGES if find_spec(name) is None]
    if lacking:
        raise InputError(f"to=onnx needs {', '.join(lacking)}: pip install 'rsseg[export]'")


def export_onnx(
    model: Ensemble,
    head: str,
    path: Path,
    windows: NDArray[np.float32],
    threshold: Tensor | None = None,
    labels: bool = False,
) -> float:
    """Write one head as ONNX: a graph from stored pixels, batches of any size, to probabilities or values.

    Args:
        model: One model, with its scaling.
        head: The head's name.
        path: The file.
        windows: At least two windows ``[N, C, H, W]`` of the model's size, on which the graph is compared with PyTorch.
        threshold: The threshold of labels for `Task.decide`; None: 0.5, or the largest probability.
        labels: Whether a second output holds labels.

    Returns:
        The largest difference, see `largest_difference`.

    Raises:
        InputError: If ONNX lacks an operation of the network, or the graph's output differs by more than `BOUND`.
    """
    import onnx
    import onnxruntime

    graph, pixels = Graph(model, head, labels, threshold).eval(), torch.from_numpy(windows)
    with _exporting("ONNX"):
        program = torch.onnx.export(
            graph,
            (pixels,),
            dynamo=True,
            input_names=["pixels"],
            output_names=["values" if graph.task.real else "probabilities", *(["labels"] if labels else [])],
            dynamic_shapes=({0: torch.export.Dim(BATCH)},),
            opset_version=18,
            verbose=False,
        )
        assert program is not None
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # the paths of this machine's source files
        proto = program.model_proto
        onnx.helper.set_model_props(proto, deepness(model, head, threshold))
        content = proto.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(part: Tensor) -> list[NDArray[np.floating]]:
        found: list[NDArray[np.floating]] = session.run(None, {"pixels": part.numpy()})
        return found[:1]

    return _write_alike(path, content, pixels, lambda part: [graph(part)[0].numpy()], run)


def export_torch(model: Ensemble, path: Path, windows: NDArray[np.float32]) -> float:
    """Write all heads as a program of torch.export, whose output is a mapping by head, as the model's.

    Arguments and errors are those of `export_onnx`. Returns the largest difference between the reloaded program and the model.
    """
    pixels, content = torch.from_numpy(windows), io.BytesIO()
    with _exporting("torch.export"):
        program = torch.export.export(model, (pixels,), dynamic_shapes=({0: torch.export.Dim(BATCH)},))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # the paths of this machine's source files
        torch.export.save(program, content)
    content.seek(0)
    again: Any = torch.export.load(content).module()

    def run(part: Tensor, network: Any) -> list[NDArray[np.floating]]:
        return [values.numpy() for values in network(part).values()]

    return _write_alike(path, content.getvalue(), pixels, lambda part: run(part, model), lambda part: run(part, again))


def _write_alike(
    path: Path,
    content: bytes,
    pixels: Tensor,
    expected: Callable[[Tensor], Iterable[NDArray[np.floating]]],
    found: Callable[[Tensor], Iterable[NDArray[np.floating]]],
) -> float:
    """Write a graph if a batch of all windows and a single window give the expected output; return the largest difference."""
    with torch.inference_mode():
        pairs = [pair for part in (pixels, pixels[:1]) for pair in zip(expected(part), found(part), strict=True)]
    difference = max(largest_difference(*pair) for pair in pairs)
    if difference > BOUND:
        raise InputError(
            f"{path} would differ from PyTorch by {difference:.2g} on some window, and {BOUND:g} is the most: it was not "
            "written; another version of torch, onnx or onnxruntime may translate the network right"
        )
    with atomic_write(path) as part:
        part.write_bytes(content)
    return difference


def largest_difference(expected: NDArray[np.floating], found: NDArray[np.floating]) -> float:
    """The largest difference between arrays ``[B, K, H, W]``, divided by the largest value of the plane if that is above 1.

    Infinite if one array is NaN where the other is not.
    """
    if expected.shape != found.shape or (np.isnan(expected) != np.isnan(found)).any():
        return float("inf")
    scale = np.maximum(np.nan_to_num(np.abs(expected)).max(axis=(0, 2, 3), keepdims=True), 1)
    return float((np.nan_to_num(np.abs(expected - found)) / scale).max())


def deepness(model: Ensemble, head: str, threshold: Tensor | None = None) -> dict[str, str]:
    """The metadata that Deepness reads from a model: JSON values by key.

    Deepness divides 8-bit pixels by 255, then standardises them: a mean of 0 and a deviation of 1/255 give the stored pixels
    again. It sets probabilities below its single threshold to 0 and takes the largest, so the threshold is 0 for exclusive
    classes. The key ``rsseg`` holds rsseg's description of the model.
    """
    spec, task = model.specs[0], model.tasks[head]
    names = [*task.classes, *(OBJECT_PLANES[3:] + OBJECT_PLANES[1:3] if task.directed else ())]
    found: dict[str, Any] = {
        "model_type": "Regressor" if task.real else "Segmentor",
        "class_names": dict(enumerate(names)),
        "tile_size": spec.window,
        "tiles_overlap": round(200 * spec.margin / spec.window),
        "standardization_mean": [0.0] * len(spec.bands),
        "standardization_std": [1 / 255] * len(spec.bands),
        "rsseg": spec_record(spec) | {"head": head, "threshold": None if threshold is None else threshold.tolist()},
    }
    if spec.resolution is not None:
        found["resolution"] = round(100 * spec.resolution, 4)
    if task.real:
        found["reg_output_scaling"] = 1.0
    else:
        found["seg_thresh"] = 0.0 if task.exclusive else 0.5
        if threshold is not None and task.channels == 1:
            found["seg_thresh"] = float(threshold.sigmoid())
        found["seg_small_segment"] = 0
    return {key: json.dumps(value) for key, value in found.items()}


@contextmanager
def _exporting(what: str) -> Iterator[None]:
    """Turn any error of an exporter into one line, and hide log messages that exporters write for their developers."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        raise InputError(f"the network can't be written as {what}: {first_line(error)[:200]}") from error
    finally:
        logging.disable(logging.NOTSET)
