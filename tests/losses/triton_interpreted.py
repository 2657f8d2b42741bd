"""What `test_losses_triton` runs in a process of its own, in which Triton was told to interpret its kernels on the CPU."""

from functools import partial

import pytest
import torch
from test_losses_onepass import TOLERANCE

from rsseg.contract import IGNORE
from rsseg.losses import Composite, CrossEntropy, Dice, Focal, Jaccard, Lovasz, Tversky, triton_pass
from rsseg.losses.functional import COUNT, NLL, SOFT, SPREAD, Sum
from rsseg.losses.statistics import reference

SMOOTH = (COUNT, Sum("focal", 2.0), NLL, SOFT, SPREAD)
CASES = [("binary", 1), ("multiclass", 2), ("multiclass", 7), ("multiclass", 21), ("multilabel", 3)]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
every_case = pytest.mark.parametrize(("task", "classes"), CASES, ids=[f"{task}{classes}" for task, classes in CASES])
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture
def small_tiles(monkeypatch):
    """A batch of a few pixels makes several programs, and each of them several tiles."""
    monkeypatch.setattr(triton_pass, "TILE", {"softmax": 64, "sigmoid": 64})
    monkeypatch.setattr(triton_pass, "PIXELS", 16)
    monkeypatch.setattr(triton_pass, "PROGRAMS", 4)
    monkeypatch.setattr(triton_pass, "SPAN", 32)


def batch(task, classes, seed=0, size=(3, 5), ignored=0.3, dtype=torch.float64):
    """Random logits, NaN and infinite at some ignored pixels, and target."""
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, classes, *size, generator=g, dtype=torch.float64)
    shape = (3, classes, *size) if task == "multilabel" else (3, *size)
    target = torch.randint(0, classes if task == "multiclass" else 2, shape, generator=g, dtype=torch.uint8)
    drop = torch.rand(3, *size, generator=g) < ignored
    logits = torch.where(drop.unsqueeze(1), torch.tensor([torch.nan, torch.inf, -torch.inf])[:, None, None, None], logits)
    return logits.to(dtype), target.masked_fill(drop.unsqueeze(1) if task == "multilabel" else drop, IGNORE)


def found_and_gradient(take, logits, target, task, wanted, images, ignore_index=IGNORE, seed=0):
    """All sums, and the gradient of a random combination of them."""
    leaf = logits.detach().clone().requires_grad_()
    found = take(leaf, target, task, wanted, ignore_index, images)
    g = torch.Generator().manual_seed(seed)
    total = 0
    for key in wanted:
        value = found[key][1] if key.name == "levels" else found[key]
        total = total + (value * torch.randn(value.shape, generator=g, dtype=torch.float64).to(value)).sum()
    total.backward()
    return {key: value.detach() for key, value in found.items()}, leaf.grad


kernels, plain = partial(found_and_gradient, triton_pass.triton_pass), partial(found_and_gradient, reference)


def assert_same(mine, expected, dtype):
    absolute, relative = TOLERANCE[dtype]
    for key, value in expected[0].items():
        assert mine[0][key].dtype == value.dtype
        torch.testing.assert_close(mine[0][key], value, atol=absolute, rtol=relative, msg=lambda m, key=key: f"{key}: {m}")
    torch.testing.assert_close(mine[1], expected[1], atol=10 * absolute, rtol=relative)


@every_case
@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("images", [False, True])
def test_sums_and_gradients_are_those_of_the_reference(task, classes, dtype, layout, images):
    logits, target = batch(task, classes, 20 + images, dtype=dtype)
    logits = logits.to(memory_format=LAYOUTS[layout])
    # an error that another dtype puts on the border of two levels may be rounded to either
    wanted = (*SMOOTH, Sum("levels", 11)) if dtype == torch.float64 else SMOOTH
    mine = kernels(logits, target, task, wanted, images)
    assert_same(mine, plain(logits, target, task, wanted, images), dtype)
    assert mine[1].is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize(("task", "classes"), [("binary", 1), ("multiclass", 3), ("multilabel", 3)])
@pytest.mark.parametrize(("layout", "images"), [("contiguous", True), ("channels_last", False)])
def test_tiles_and_programs_change_nothing_and_bits_repeat(task, classes, layout, images, small_tiles):
    wanted = (*SMOOTH, Sum("levels", 11))
    logits, target = batch(task, classes, 7, size=(5, 11))
    logits = logits.to(memory_format=LAYOUTS[layout])
    mine, again = (kernels(logits, target, task, wanted, images) for _ in range(2))
    assert_same(mine, plain(logits, target, task, wanted, images), torch.float64)
    assert torch.equal(mine[1], again[1])
    assert all(torch.equal(value, again[0][key]) for key, value in mine[0].items())


@pytest.mark.parametrize(("task", "classes"), [("multiclass", 3), ("binary", 1)])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.5])
def test_gammas(task, classes, gamma):
    logits, target = batch(task, classes, 1)
    logits[0] *= 100  # p is 0 or 1
    wanted = (COUNT, Sum("focal", gamma))
    assert_same(kernels(logits, target, task, wanted, False), plain(logits, target, task, wanted, False), torch.float64)


@pytest.mark.parametrize("key", [SOFT, NLL, SPREAD, Sum("levels", 512)], ids=lambda key: key.name)
@pytest.mark.parametrize(("task", "classes"), [("multiclass", 2), ("multilabel", 3)])
def test_each_sum_alone(task, classes, key):
    logits, target = batch(task, classes, 2)
    assert_same(*(take(logits, target, task, (COUNT, key), True) for take in (kernels, plain)), torch.float64)


@pytest.mark.parametrize(("dtype", "ignore"), [(torch.int64, -1), (torch.int32, 1), (torch.uint8, 0), (torch.bool, 255)])
@pytest.mark.parametrize(("task", "classes"), [("multiclass", 7), ("binary", 1)])
def test_labels_of_any_dtype_and_any_ignore_value(task, classes, dtype, ignore):
    logits, target = batch(task, classes, 3, ignored=0)
    target = (target > 0 if dtype == torch.bool else target).to(dtype)
    if ignore < 0:
        target[:, 0] = ignore
    wanted = (*SMOOTH, Sum("levels", 8))
    mine = kernels(logits, target, task, wanted, False, ignore)
    assert_same(mine, plain(logits, target, task, wanted, False, ignore), torch.float64)


@every_case
def test_no_valid_pixel_gives_zeros(task, classes):
    logits, target = batch(task, classes, 4, ignored=1.1, dtype=torch.float32)
    found, gradient = kernels(logits, target, task, (*SMOOTH, Sum("levels", 8)), True)
    assert not any(value.any() for value in found.values())
    assert not gradient.any()


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_extreme_logits_are_finite(task, classes, dtype):
    g = torch.Generator().manual_seed(0)
    logits, target = batch(task, classes, 5, ignored=0, dtype=dtype)
    logits = 1e4 * torch.randint(-1, 2, logits.shape, generator=g).to(dtype)
    logits[0, -1] = -torch.inf
    found, gradient = kernels(logits, target, task, (*SMOOTH, Sum("levels", 8)), False)
    assert all(value.isfinite().all() for value in found.values())
    assert gradient.isfinite().all()


@every_case
def test_a_class_ruled_out_by_minus_infinity_costs_nothing(task, classes):
    logits, target = batch(task, classes, 6, ignored=0)
    target[target == (classes - 1 if task == "multiclass" else 1)] = 0
    logits[:, -1] = -torch.inf
    wanted = (COUNT, NLL, SOFT)
    assert_same(kernels(logits, target, task, wanted, False), plain(logits, target, task, wanted, False), torch.float64)


@every_case
def test_nan_at_a_valid_pixel_shows(task, classes):
    logits, target = batch(task, classes, 7, ignored=0)
    logits[1, 0, 0, 0] = torch.nan
    found, gradient = kernels(logits, target, task, SMOOTH, False)
    assert found[SOFT].isnan().any()
    assert found[NLL].isnan().any()
    assert gradient[1, 0, 0, 0].isnan()


@pytest.mark.parametrize(("task", "classes"), [("multiclass", 7), ("multilabel", 3)])
def test_logits_of_any_strides(task, classes):
    logits, target = batch(task, classes, 8)
    expected = plain(logits, target, task, SMOOTH, False)
    for strided in (logits.mT.contiguous().mT, logits.movedim(0, -1).contiguous().movedim(-1, 0)):
        assert_same(kernels(strided, target, task, SMOOTH, False), expected, torch.float64)


def test_a_hundred_thousand_float32_pixels_add_up_without_loss():
    logits, target = batch("multiclass", 2, 9, size=(200, 200), dtype=torch.float32)
    wanted = (COUNT, NLL, SOFT)
    found = triton_pass.triton_pass(logits, target, "multiclass", wanted, IGNORE, False)
    exact = reference(logits.double(), target, "multiclass", wanted, IGNORE, False)
    for key, value in exact.items():
        torch.testing.assert_close(found[key].double(), value, atol=0, rtol=3e-7)


@pytest.mark.parametrize(("task", "classes"), [("multiclass", 7), ("binary", 1), ("multilabel", 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_compositions_through_the_kernels(task, classes, dtype, monkeypatch):
    monkeypatch.setattr("rsseg.losses.statistics.one_pass", triton_pass.triton_pass)
    called = []
    monkeypatch.setattr(triton_pass._Batch, "shared", _counted(triton_pass._Batch.shared, called))
    terms = {
        "ce": (1.0, CrossEntropy(task, label_smoothing=0.1)),
        "dice": (1.0, Dice(task)),
        "focal": (2.0, Focal(task, over="image")),
        "tversky": (1.0, Tversky(task, 0.3, 0.7)),
        "jaccard": (0.0, Jaccard(task, over="image")),
    }
    if dtype == torch.float64:
        terms["lovasz"] = (0.5, Lovasz(task, bins=32))
    logits, target = batch(task, classes, 10, dtype=dtype)
    values = []
    for backend in ("auto", "reference"):
        leaf = logits.clone().requires_grad_()
        value = Composite(terms, backend=backend)(leaf, target)
        value.total.backward()
        values.append((value.total.detach(), {name: part.detach() for name, part in value.raw.items()}, leaf.grad))
        assert called
    torch.testing.assert_close(values[0], values[1])


def _counted(method, called):
    return lambda *arguments: called.append(1) or method(*arguments)
