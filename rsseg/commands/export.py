"""Export a run's model: rsseg export run=runs/... to=onnx"""

import logging
from dataclasses import dataclass
from pathlib import Path

from rsseg.config.entry import next_map
from rsseg.inference.options import ExportOptions

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Arguments(ExportOptions):
    """Write a run's best checkpoint for use without the run, with a model card (README.md) and a STAC item (stac.json).

    run=FOLDER    the run folder
    to=folder     weights as safetensors, as smp and the Hub lay them out; rsseg predict takes the folder as run=... (default)
    to=onnx       a graph from stored pixels to the probabilities, or values, of a head: for onnxruntime, and Deepness in QGIS
    to=torch      the same of all heads as a program of torch.export, for PyTorch alone
    out=FOLDER    where to; default: <run>/export. Several exports of a run may lie in one folder
    head=NAME     of to=onnx, the head; default: the first
    threshold=tuned    of to=onnx, at the thresholds that were tuned on the validation scenes, not at 0.5 (argmax)
    labels=true   of to=onnx, a second output with the labels; Deepness takes models with one output
    licence=NAME  the licence of the model for card and item, such as cc-by-4.0
    trust=PACKAGE[,PACKAGE...]    packages of your own that the run was trained with: their code runs
    """

    run: Path


def run(arguments: Arguments) -> None:
    """Export as the command line says."""
    from rsseg.export import export

    out = export(arguments.run, arguments)
    if arguments.to == "folder":
        log.info("%s", next_map(out))
