"""Gradients on probe windows against closed forms, and that nothing is left behind."""

from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rsseg.contract import IGNORE, Batch
from rsseg.losses import Composite, CrossEntropy, Dice
from rsseg.module import SegmentationModule
from rsseg.task import Binary
from rsseg.training.gradients import norms_and_cosines, one_step_gain, probe

WEIGHTS = torch.tensor([0.7, -0.4])
BIAS = 0.1


class Linear(nn.Module):
    """One logit, linear in two bands."""

    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(2, 1, 1)
        with torch.no_grad():
            self.last.weight.copy_(WEIGHTS.view(1, 2, 1, 1))
            self.last.bias.fill_(BIAS)

    def forward(self, x):
        return {"mask": self.last(x)}


def setting():
    loss = Composite(
        {"ce": (2.0, CrossEntropy("binary")), "dice": (0.5, Dice("binary", smooth=0)), "none": (0.0, Dice("binary"))}
    )
    module = SegmentationModule(Linear(), {"mask": loss}, {"mask": Binary(("a",))}, [0, 0], [1, 1], scenes=1)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    rng = np.random.default_rng(0)
    image, mask = rng.normal(size=(3, 2, 4, 4)).astype(np.float32), rng.integers(0, 2, (3, 4, 4), dtype=np.uint8)
    mask[0, 0] = IGNORE
    windows = [
        Batch(image=torch.from_numpy(i[None]), mask=torch.from_numpy(m[None]), scene=None, k=None)
        for i, m in zip(image, mask, strict=True)
    ]
    return trainer, module.eval(), windows, image, mask


def test_norms_and_cosines_are_those_of_the_closed_form():
    trainer, module, windows, image, mask = setting()
    with torch.inference_mode():  # as in a validation
        found = probe(trainer, module, windows)["mask"]
    y, x = mask.astype(float), np.moveaxis(image.astype(float), 1, -1)
    p = 1 / (1 + np.exp(-(x @ WEIGHTS.double().numpy() + BIAS)))
    valid = mask != IGNORE
    ce = 2 * (p - y) / valid.sum()
    tp, whole = (p * y)[valid].sum(), p[valid].sum() + y[valid].sum()
    dice = 0.5 * (2 * tp / whole**2 - 2 * y / whole) * p * (1 - p)
    logits = np.stack([np.where(valid, g, 0).ravel() for g in (ce, dice, 0 * dice)])
    inputs = np.concatenate([x, np.ones((*x.shape[:-1], 1))], axis=-1).reshape(-1, 3)
    for place, g in (("logits", logits), ("layer", logits @ inputs)):
        norm = np.linalg.norm(g, axis=1)
        assert found[f"{place}.norm"].numpy() == pytest.approx(norm, rel=1e-5)
        cosine = g[0] @ g[1] / norm[0] / norm[1]
        assert float(found[f"{place}.cosine"][0, 1]) == pytest.approx(cosine, rel=1e-5)
        assert found[f"{place}.cosine"][2].isnan().all()  # a term of weight 0
    assert "gain" not in found


def test_gain_is_that_of_a_step_and_the_weights_stay(monkeypatch):
    """One pixel is positive and called so by a margin that one step of the cross-entropy takes away."""
    trainer, module, windows, _, _ = setting()
    monkeypatch.setattr("rsseg.training.gradients.STEP", 10.0)
    negative = [{**w, "mask": torch.where(w["mask"] == 1, 0, w["mask"])} for w in windows]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    positive = [{**w, "mask": torch.where(w["mask"] == 0, 1, w["mask"])} for w in windows]
    found = probe(trainer, module, negative, held_out=positive)["mask"]["gain"]  # learns to call nothing positive

    def iou():
        z = module(torch.cat([w["image"] for w in positive]))["mask"][:, 0]
        one = torch.cat([w["mask"] for w in positive]) == 1
        return float((z > 0)[one].double().mean())  # all that is labelled is positive: IoU is the hit rate

    start = iou()
    z = module(torch.cat([w["image"] for w in negative]))["mask"]
    loss = module.losses["mask"].terms["ce"](z, torch.cat([w["mask"] for w in negative]))
    gradient = torch.autograd.grad(loss, list(module.parameters()))
    norm = torch.cat([g.flatten() for g in gradient]).norm()
    with torch.no_grad():
        for p, g in zip(module.parameters(), gradient, strict=True):
            p -= 10.0 * g / norm
    expected = (iou() - start) / 10.0
    assert expected < 0
    assert float(found[0]) == pytest.approx(expected)
    assert float(found[2]) == 0  # no gradient, no step
    module.load_state_dict(before)
    probe(trainer, module, windows, held_out=positive)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in module.parameters())


def test_float16_is_left_alone():
    """Its gradients of a mean over many pixels would be 0."""
    trainer, module, windows, _, _ = setting()
    half = SimpleNamespace(precision="16-mixed", precision_plugin=None)
    same = probe(half, module, windows)["mask"]
    torch.testing.assert_close(same, probe(trainer, module, windows)["mask"], equal_nan=True)


class NoFloat64(TorchDispatchMode):
    """Apple's GPUs, which have no float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        assert getattr(found, "dtype", None) != torch.float64
        return found


def test_apples_gpus_compute_without_float64(monkeypatch):
    monkeypatch.setattr("rsseg.training.gradients.exact_dtype", lambda device: torch.float32, raising=False)
    gradients, weights = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([1.0, 1.0])
    with NoFloat64():
        norms, cosines = norms_and_cosines(gradients)
        gain = one_step_gain([weights], [gradients[0]], lambda: -float(weights.sum()), step=0.5)
    assert norms.tolist() == [5, 1]
    assert cosines[0, 1].item() == pytest.approx(0.6)
    assert gain == pytest.approx(1.4)
