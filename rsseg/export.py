"""Exports of a run's model for other programs and machines, as ``rsseg export`` makes them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg.assembly import make_setup
from rsseg.comparison.records import RecordError, Records, load_records
from rsseg.config.folder import RunFolder
from rsseg.config.targets import side_of_blocks
from rsseg.contract import InputError, check_choice
from rsseg.dataset import scenes_of
from rsseg.errors import SCORING, in_one_line
from rsseg.evaluation.loading import known_head, load_trained
from rsseg.files import read_json, write_json, write_text
from rsseg.inference.card import ARTIFACTS, CardFacts, item_id, model_card, stac_item
from rsseg.inference.ensemble import Ensemble
from rsseg.inference.export import ABOUT, ITEM, SMP, check_folder, export_folder
from rsseg.inference.graphs import check_packages, export_onnx, export_torch
from rsseg.inference.options import ExportOptions
from rsseg.inference.trained import Spec, TrainedModel
from rsseg.models import Architecture
from rsseg.quiet import quiet
from rsseg.setup import Setup, loss_places, weight_of

log = logging.getLogger(__name__)

WINDOWS = 4
"""The number of windows on which a graph is compared with PyTorch."""

CARD = "README.md"


def export(run: Path, options: ExportOptions | None = None) -> Path:
    """Write a run's best checkpoint for use without the run: as a folder of weights, as ONNX, or as a program of torch.export.

    A model card (``README.md``) and a STAC item (``stac.json``) in the same folder describe all exports in it.

    Returns:
        The folder.

    Raises:
        InputError: If the run can't be used, a graph differs from the model, or files can't be written.
    """
    options = options or ExportOptions()
    quiet()
    check_choice("to", options.to, ("folder", "onnx", "torch"))
    check_choice("threshold", options.threshold, ("fixed", "tuned"))
    tuned = options.threshold == "tuned"
    if options.to != "onnx" and (options.head or options.labels or tuned):
        raise InputError(f"head, threshold and labels are for to=onnx alone: to={options.to} holds all heads and thresholds")
    if options.to == "onnx":
        check_packages()
    folder, out = RunFolder(run), options.out or run / "export"
    setup = make_setup(folder.config(), options.trust)
    chosen = known_head(options.head, setup.tasks)
    check_folder(out, item_id(run.resolve().name))
    if options.labels and setup.tasks[chosen].real:
        raise InputError(f"labels=true: head {chosen} holds real values, which have no labels; leave it out")
    if tuned and not options.labels and setup.tasks[chosen].channels > 1:
        raise InputError("threshold=tuned: thresholds or biases of several classes are applied to labels only: add labels=true")
    with in_one_line(out, setup.batch_size, setup.window, memory=SCORING):
        model = load_trained(folder, setup)
        if options.to == "folder":
            network: Any = model.network
            architecture = Architecture.of(network, setup.model, setup.plain["model"]["net"], len(model.spec.bands))
            export_folder(model, architecture, out)
        else:
            scaled, windows = Ensemble([model], scaling="temperature"), example_windows(setup, model.spec)
            if options.to == "torch":
                path = out / "model.pt2"
                difference = export_torch(scaled, path, windows)
            else:
                path = out / f"{'model' if chosen == setup.head else chosen}.onnx"
                threshold = scaled.tuned_threshold(chosen) if tuned else None
                difference = export_onnx(scaled, chosen, path, windows, threshold, options.labels)
            log.info("%s: differs from PyTorch by %.1e at most, on %d validation windows", path, difference, WINDOWS)
        licence = options.licence
        if not licence and (out / ITEM).is_file():  # keep the licence of an earlier export
            licence = str(read_json(out / ITEM).get("properties", {}).get("license", ""))
        _describe(folder, setup, model, out, licence)
    log.info("Exported to %s; %s says what it is", out, CARD)
    if not licence:
        log.info("No licence is stated: licence=... writes it into %s and %s", CARD, ITEM)
    return out


def example_windows(setup: Setup, spec: Spec) -> NDArray[np.float32]:
    """Windows ``[WINDOWS, C, window, window]`` of the validation split."""
    scenes, size, found = scenes_of(setup.source(), setup.dataset, "val"), spec.window, []
    for place in range(WINDOWS):
        scene = scenes[place * len(scenes) // WINDOWS]
        reader = replace(scene, masks=(), weight=None).reader(setup.dataset.mask_readers, spec.bands)
        reader.fill = np.array(spec.mean)
        top, left = (max(0, (side - size) * (place + 1) // (WINDOWS + 1)) for side in reader.size)
        found.append(reader.read_image(top, left, size)[0].astype(np.float32))
    return np.stack(found)


def _describe(run: RunFolder, setup: Setup, model: TrainedModel, out: Path, licence: str) -> None:
    """Write the card and the item of the files in a folder."""
    saved, summary = run.data(), run.summary() if run.finished else {}
    network: Any = model.network
    records = dict[tuple[str, str], Records]()
    for key in product(setup.tasks, ("val", "test")):
        with suppress(RecordError):
            records[key] = load_records(run.path, *key)
    facts = CardFacts(
        spec=model.spec,
        title=run.path.resolve().name,
        architecture=type(network.net).__name__,
        encoder=setup.model.encoder,
        parameters=sum(weight.numel() for weight in network.parameters()),
        made=str(summary.get("finished") or datetime.now(UTC).isoformat(timespec="seconds")),
        dataset=setup.dataset.name,
        losses={head: loss_words(terms) for head, (_, terms) in loss_places(setup.plain).items()},
        steps=summary.get("steps"),
        scenes=saved["scenes"],
        groups=saved["groups"],
        records=records,
        without={name: setup.without_of(name) for name in setup.tasks},
        files=sorted(path.name for path in out.iterdir() if path.name in (ABOUT, SMP) or path.suffix in ARTIFACTS),
        licence=licence,
        blocks=side_of_blocks(setup.plain["dataset"]),
    )
    write_text(out / CARD, model_card(facts))
    write_json(out / ITEM, stac_item(facts))


def loss_words(terms: Mapping[str, Mapping[str, Any]]) -> str:
    """A loss in words, from the nodes of its terms.

    Example:
        >>> loss_words({"dice": {"_target_": "rsseg.losses.Dice"}, "mcc": {"_target_": "rsseg.losses.MCC", "weight": 0.5}})
        'Dice + 0.5 MCC'
        >>> loss_words({"a": {"_target_": "rsseg.losses.Focal"}, "b": {"_target_": "rsseg.losses.Focal", "weight": 2}})
        'Focal + 2 Focal'
    """
    named = [(str(node["_target_"]).rpartition(".")[2], weight_of(node).full) for node in terms.values()]
    return " + ".join(f"{'' if weight == 1 else f'{weight:g} '}{name}" for name, weight in named)
