"""Losses that were not written for rsseg: what they get, that ignored pixels never count, and what is refused."""

import copy

import numpy as np
import pytest
import segmentation_models_pytorch.losses as smp
import torch
from kornia.losses import DiceLoss as KorniaDice
from torch import nn
from torch.nn import functional as F

from rsseg.assembly import make_setup
from rsseg.config.build import TERM, build
from rsseg.contract import IGNORE, InputError
from rsseg.dataset import TargetStatistics, TrainStatistics
from rsseg.losses import Composite, CrossEntropy, Dice, Foreign
from rsseg.losses.foreign import adapted, given_to_loss
from rsseg.task import make_task

CLASSES = {"binary": ("a",), "multiclass": ("a", "b", "c"), "multilabel": ("a", "b")}
BROKEN = 5
"""Rows at the top that are ignored."""


def batch(kind, seed=0):
    """Logits in channels-last order, as networks give them, and labels; the first rows are ignored."""
    task, g = make_task(kind, CLASSES[kind]), torch.Generator().manual_seed(seed)
    logits = torch.randn(2, task.channels, 12, 8, generator=g).to(memory_format=torch.channels_last)
    target = torch.randint(0, task.labels, (2, *task.planes, 12, 8), generator=g).to(torch.uint8)
    target[..., :BROKEN, :] = IGNORE
    return task, logits.requires_grad_(), target


def foreign(loss, kind, **options):
    return Foreign(loss, "loss.terms.mine", make_task(kind, CLASSES[kind]), **options)


class Seen(nn.Module):
    """Keeps what it is given."""

    def __init__(self, ignore_index=None):
        super().__init__()

    def forward(self, logits, target, weight=None):
        self.logits, self.target, self.weight = logits, target, weight
        return logits.mean()


class Plain(nn.Module):
    def forward(self, logits, target):
        return F.binary_cross_entropy_with_logits(logits, target)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("binary", torch.float32), ("multiclass", torch.int64), ("multilabel", torch.float32)]
)
def test_the_target_has_the_form_that_torch_and_smp_expect(kind, dtype):
    task, logits, target = batch(kind)
    seen = Seen()
    foreign(seen, kind)(logits.bfloat16(), target)
    assert (seen.logits.dtype, seen.logits.shape) == (torch.float32, logits.shape)
    assert seen.logits.is_contiguous()  # libraries call .view
    assert seen.target.dtype == dtype
    assert seen.target.shape == (target.shape if kind == "multiclass" else logits.shape)
    assert torch.equal(seen.target.long().view(target.shape), target.long())  # IGNORE where ignored
    column = Seen()
    foreign(column, kind, pixels=True)(logits.double(), target)
    n = 2 * (12 - BROKEN) * 8
    assert (column.logits.dtype, column.logits.shape) == (torch.float64, (1, task.channels, n, 1))
    assert column.target.shape == ((1, n, 1) if kind == "multiclass" else (1, task.channels, n, 1))
    pairs = torch.cat([column.logits[0, :, :, 0], column.target.view(-1, n)]).detach().T.numpy()
    kept = torch.cat([logits[..., BROKEN:, :], target.view(2, -1, 12, 8)[..., BROKEN:, :]], dim=1).detach().double()
    np.testing.assert_array_equal(pairs, kept.movedim(1, -1).reshape(n, -1).numpy())


@pytest.mark.parametrize(
    ("loss", "kind", "pixels"),
    [
        (nn.CrossEntropyLoss(ignore_index=IGNORE), "multiclass", False),
        (nn.CrossEntropyLoss(label_smoothing=0.1), "multiclass", True),
        (nn.BCEWithLogitsLoss(), "binary", True),
        (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0, 3.0]).view(2, 1, 1)), "multilabel", True),
        (smp.DiceLoss("binary", ignore_index=IGNORE), "binary", False),
        (smp.JaccardLoss("multiclass", ignore_index=IGNORE), "multiclass", False),
        (smp.FocalLoss("multiclass", ignore_index=IGNORE), "multiclass", False),
        (smp.LovaszLoss("multilabel", ignore_index=IGNORE), "multilabel", False),
        (smp.SoftCrossEntropyLoss(smooth_factor=0.1), "multiclass", True),
        (smp.MCCLoss(), "binary", True),
        (KorniaDice(), "multiclass", True),
        (Plain(), "multilabel", True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_ignored_pixels_are_as_if_cut_away(loss, kind, pixels):
    _, logits, target = batch(kind)
    logits = logits.detach() if isinstance(loss, smp.LovaszLoss) else logits.detach().double()  # smp's is for float32
    term = foreign(loss, kind, pixels=pixels)
    term.try_out()
    whole = logits.clone().requires_grad_()
    value = term(whole, target)
    (gradient,) = torch.autograd.grad(value, whole)
    cut = logits[..., BROKEN:, :].contiguous().requires_grad_()
    labels = target[..., BROKEN:, :].long()
    bare = loss(cut, labels if kind == "multiclass" else labels.view(cut.shape).to(cut))  # the library by itself
    if not pixels or "Dice" not in type(loss).__name__:  # kornia's Dice is a mean over images; a column is one image
        torch.testing.assert_close(value, bare)
        torch.testing.assert_close(gradient[..., BROKEN:, :], torch.autograd.grad(bare, cut)[0])
    assert not gradient[..., :BROKEN, :].any()
    assert gradient[..., BROKEN:, :].any()
    nothing = logits.clone().requires_grad_()
    value = term(nothing, torch.full_like(target, IGNORE))
    assert value == 0
    assert not torch.autograd.grad(value, nothing)[0].any()


def test_torch_losses_are_those_of_rsseg():
    _, logits, target = batch("multiclass")
    torch.testing.assert_close(
        foreign(nn.CrossEntropyLoss(ignore_index=IGNORE), "multiclass")(logits, target),
        CrossEntropy("multiclass")(logits, target),
    )
    _, logits, target = batch("binary")
    dice = smp.DiceLoss("binary", smooth=0.5, ignore_index=IGNORE)
    torch.testing.assert_close(foreign(dice, "binary")(logits, target), Dice("binary", smooth=1.0)(logits, target))


@pytest.mark.parametrize("kind", ["binary", "multilabel"])
def test_a_loss_without_a_notion_of_ignored_pixels_stops_at_the_first(kind):
    _, logits, target = batch(kind)
    term = foreign(Plain(), kind)
    term.try_out()
    whole = torch.where(target == IGNORE, 0, target)
    for _ in range(4):
        term(logits, whole)
    with pytest.raises(InputError, match=r"loss\.terms\.mine: there are ignored pixels .*\.mine\.pixels=true passes"):
        term(logits, target)
    with pytest.raises(InputError, match="ignored pixels"):
        term.refuse_ignored()
    foreign(Plain(), kind, pixels=True).refuse_ignored()
    foreign(Seen(), kind).refuse_ignored()


class CountsIgnored(nn.Module):
    def __init__(self, ignore_index):
        super().__init__()

    def forward(self, logits, target):
        return F.binary_cross_entropy_with_logits(logits, (target == 1).float())


class Detached(nn.Module):
    def forward(self, logits, target):
        return (logits.argmax(1) != target).float().mean()


class PerPixel(nn.Module):
    def forward(self, logits, target):
        return F.cross_entropy(logits, target, reduction="none")


class Fails(nn.Module):
    def forward(self, logits, target):
        return logits[:, :7] @ target.float()


class FailsBackward(nn.Module):
    def forward(self, logits, target):
        p = logits.exp()
        value = p.square().mean()
        p.zero_()
        return value


class InPlace(nn.Module):
    def forward(self, logits, target):
        return logits.sigmoid_().mean()


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, logits, target):
        return self.scale * 3


class Number(nn.Module):
    def forward(self, logits, target):
        return logits.mean().item()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (CountsIgnored(IGNORE), r"takes ignore_index, but ignored pixels have a gradient: loss\.terms\.mine\.pixels=true"),
        (Detached(), r"no gradient"),
        (Constant(), r"no gradient"),
        (PerPixel(), r"returned float32 \[2, 32, 32\]; a loss returns one number"),
        (Number(), r"returned float; a loss returns one number"),
        (Fails(), r"Fails failed with logits .* target int64 \[2, 32, 32\], test_losses_foreign\.py line \d+: RuntimeError: "),
        (FailsBackward(), r"FailsBackward failed in its gradient.*inplace"),
        (InPlace(), r"InPlace failed .*in-place"),
        (nn.BCELoss(), r"BCELoss failed .*between 0 and 1"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_a_trial_refuses_in_one_line(loss, message):
    kind = "binary" if isinstance(loss, CountsIgnored | nn.BCELoss) else "multiclass"
    with pytest.raises(InputError, match=rf"^loss\.terms\.mine: .*{message}") as caught:
        foreign(loss, kind).try_out()
    assert "\n" not in str(caught.value)


def test_pixel_weights_are_passed_to_what_takes_them():
    _, logits, target = batch("multiclass")
    weight = torch.rand(2, 12, 8)
    weight[:, -1] = 0
    weight[:, -2] = torch.nan
    seen = Seen()
    foreign(seen, "multiclass")(logits, target, weight)
    assert torch.equal(seen.weight[:, :-2], (weight * (target != IGNORE))[:, :-2])
    assert not seen.weight[:, -2:].any()
    assert (seen.target[:, -2:] == IGNORE).all()
    foreign(seen, "multiclass", pixels=True)(logits, target, weight)
    assert seen.weight.shape == (1, 2 * (12 - BROKEN - 2) * 8, 1)
    assert (seen.weight > 0).all()
    with pytest.raises(InputError, match=r"PerPixel\.forward has no parameter weight"):
        foreign(PerPixel(), "multiclass")(logits, target, weight)
    composite = Composite({"a": (1.0, foreign(seen, "multiclass")), "ce": (1.0, CrossEntropy("multiclass"))})
    composite(logits, target, weight)
    assert seen.weight.shape == (2, 12, 8)


@pytest.mark.parametrize("pixels", [False, True])
def test_class_shares_are_given_as_they_are_and_ignored_ones_need_pixels(pixels):
    task = make_task("multiclass", CLASSES["multiclass"], soft=True)
    shares = torch.rand(2, 3, 12, 8).softmax(1)
    loss, logits = nn.CrossEntropyLoss(), torch.randn(2, 3, 12, 8)
    term = Foreign(loss, "loss.terms.ce", task, pixels)
    term.try_out()
    torch.testing.assert_close(term(logits, shares), loss(logits, shares))
    shares[:, :, :BROKEN] = torch.nan
    if pixels:
        torch.testing.assert_close(term(logits, shares), loss(logits[:, :, BROKEN:], shares[:, :, BROKEN:]))
    else:
        with pytest.raises(InputError, match="ignored pixels"):
            term(logits, shares)


def test_labels_outside_the_classes_are_refused():
    _, logits, target = batch("multiclass")
    with pytest.raises(InputError, match="holds 7"):
        foreign(Seen(), "multiclass")(logits, torch.full_like(target, 7))


def test_terms_of_rsseg_stay_what_they_are():
    term = Dice("binary")
    assert adapted(term, "loss.terms.dice", make_task("binary", ("a",))) is term
    for pixels, message in ((True, "leaves out ignored pixels itself"), ("yes", "true or false")):
        with pytest.raises(InputError, match=message):
            adapted(term, "loss.terms.dice", make_task("binary", ("a",)), pixels)
    assert given_to_loss({"_target_": "torch.nn.CrossEntropyLoss"}, "binary") == {"task": "binary", "ignore_index": IGNORE}
    assert isinstance(copy.deepcopy(foreign(Plain(), "binary")), Foreign)


OWN = """\
import torch
from torch.nn import functional as F

class Mine(torch.nn.Module):
    def __init__(self, task, class_weights, ignore_index, power=1.0):
        super().__init__()
        self.task, self.weights, self.ignore_index, self.power = task, class_weights, ignore_index, power

    def forward(self, logits, target):
        return F.cross_entropy(logits, target, torch.tensor(self.weights), ignore_index=self.ignore_index) ** self.power
"""


def test_a_file_in_the_working_directory_is_found_and_given_what_its_signature_has(tmp_path, monkeypatch):
    from tiny import compose

    (tmp_path / "mylosses_here.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    node = "+loss.terms.mine={_target_: mylosses_here.Mine, weight: 2.0, class_weights: inverse_frequency, power: 2}"
    setup = make_setup(compose([node, "trust=[mylosses_here]"]), ["mylosses_here"])
    numbers = TrainStatistics([0.0] * 3, [1.0] * 3, {"mask": TargetStatistics([1, 1, 2, 2, 4], [10] * 5)})
    loss = setup.losses(numbers)["mask"]
    mine = loss.terms["mine"].loss
    assert (mine.task, mine.ignore_index, mine.power) == ("multiclass", IGNORE, 2)
    assert np.mean(mine.weights) == pytest.approx(1)
    assert mine.weights[0] == pytest.approx(4 * mine.weights[4])
    assert loss.weights == {"ce": 1.0, "dice": 1.0, "mine": 2.0}
    for word, message in {
        "+loss.terms.mine.powr=1": "did you mean 'power'",
        "+loss.terms.mine.task=binary": "set by rsseg",
        "+loss.terms.mine.pixels=3": "true or false",
        "+loss.terms.dice.pixels=true": "leaves out ignored pixels itself",
        "+loss.terms.other={_target_: mylosses_here.torch.nn.Linear}": "is not a loss",
        "+loss.terms.other={_target_: torch.nn.BCEWithLogitsLoss}": "other: BCEWithLogitsLoss failed",
    }.items():
        with pytest.raises(InputError, match=message):
            make_setup(compose([node, word]), ["mylosses_here"])


class Bare(nn.Module):
    """A loss that knows nothing of weights."""

    def forward(self, logits, target):
        return F.cross_entropy(logits, target, ignore_index=255)


class Weighted(nn.Module):
    """A loss that asks for weights."""

    def forward(self, logits, target, weight):
        return (F.cross_entropy(logits, target, ignore_index=255, reduction="none") * weight).mean()


def test_a_loss_without_a_constructor_is_given_nothing():
    import torch._dynamo  # noqa: F401 as torch.compile does: it exchanges nn.Module's constructor

    node = {"_target_": "kornia.losses.TotalVariation"}
    assert isinstance(build(node, "loss.terms.mine", TERM, (), task="multiclass", ignore_index=255), nn.Module)


def test_a_trial_has_weights_where_pixels_have_them():
    foreign(Weighted(), "multiclass", pixels=True).try_out(weighted=True)
    with pytest.raises(InputError, match="missing 1 required positional argument: 'weight'"):
        foreign(Weighted(), "multiclass", pixels=True).try_out()
    with pytest.raises(InputError, match=r"pixels have weights, but Bare.forward has no parameter weight"):
        foreign(Bare(), "multiclass", pixels=True).try_out(weighted=True)


def test_weights_are_0_where_the_mask_is_ignored():
    seen = []

    class Keeps(nn.Module):
        def forward(self, logits, target, weight):
            seen.append(weight)
            return logits.mean()

    mask, weight = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8), torch.tensor([[[2.0, torch.nan, 3.0]]])
    loss = Foreign(Keeps(), "loss.terms.mine", make_task("multiclass", ["a", "b"]), pixels=False)
    loss.ignores = True
    loss(torch.zeros(1, 2, 1, 3), mask, weight)
    assert seen[0].tolist() == [[[2.0, 0.0, 0.0]]]
