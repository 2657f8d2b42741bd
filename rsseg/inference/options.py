"""How scenes are to be mapped: the arguments of predict.py. Torch is not imported."""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Options:
    """How scenes are mapped; scripts/predict.py explains each setting.

    Attributes:
        threshold: ``fixed`` or ``tuned``.
        head: The head that is mapped; empty: all.
        write: What maps hold, see `rsseg.inference.maps.KINDS`.
        dtype: That of probabilities, entropy and disagreement.
        polygons: Whether the areas of labels are written as polygons.
        min_area: The smallest of them, in square metres.
        simplify: How far their borders may move, in metres.
        tta: See `rsseg.inference.predictor.VIEWS`.
        weights: What several runs count for: ``equal``, or ``quality``, the validation score.
        scaling: See `rsseg.inference.trained.TrainedModel`.
        blend: See `rsseg.inference.blending.window_weights`.
        window: The side of windows; None: as trained.
        margin: See `rsseg.inference.blending.window_weights`; None: what validation cut away.
        batch_size: Windows at a time; None: as trained.
        area: A vector file outside of which nothing is mapped; empty: none.
        resample: ``true``: a scene of another resolution is brought to that of training; ``false``: it is mapped as it is;
            ``refuse``.
        stack: Whether the listed files are the bands of one scene.
        overwrite: Whether a map that is there is made again.
        allow_different: Whether scenes of another number type or range than trained pixels are mapped.
        device: ``auto``, ``cpu`` or ``gpu``.
    """

    threshold: str = "fixed"
    head: str = ""
    write: list[str] = field(default_factory=lambda: ["labels"])
    dtype: str = "uint8"
    polygons: bool = False
    min_area: float = 0.0
    simplify: float = 0.0
    tta: str = "none"
    weights: str = "equal"
    scaling: str = "temperature"
    blend: str = "gaussian"
    window: int | None = None
    margin: int | None = None
    batch_size: int | None = None
    area: str = ""
    resample: str = "refuse"
    stack: bool = False
    overwrite: bool = False
    allow_different: bool = False
    device: str = "auto"
