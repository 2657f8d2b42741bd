"""The one pass gives what its plain PyTorch reference gives, whatever the batch, the sums and the pieces."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses_cases import CHANNELS
from losses_cases import batch as batch_of_task
from losses_reference import reference_sums

from rsseg.contract import IGNORE
from rsseg.losses import pieces
from rsseg.losses.sums import COUNT, NLL, SOFT, SPREAD, Sum, over_batch, pixel_sums

SMOOTH = (COUNT, SOFT, NLL, SPREAD, Sum("focal", 2.0), Sum("focal", 0.5), Sum("focal", 0.0), Sum("power", 0.7))
SUMS = (*SMOOTH, Sum("levels", 16))
TOLERANCE = {
    torch.float64: (1e-10, 1e-9),
    torch.float32: (2e-5, 2e-5),
    torch.bfloat16: (4e-3, 2e-2),
    torch.float16: (1e-3, 4e-3),
}
PAIR, SIX = "multiclass of two", "multiclass of six"
every_task = pytest.mark.parametrize("case", [*CHANNELS, PAIR, SIX])
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE)


def batch(case, *arguments, **options):
    """As `losses_cases.batch`, and the task; two classes are a case of their own, as many datasets are, and many are."""
    if case not in (PAIR, SIX):
        return *batch_of_task(case, *arguments, **options), case
    logits, target = batch_of_task("multiclass", *arguments, **options)
    if case == SIX:
        return torch.cat([logits, logits.flip(1).roll(1, -1)], 1), torch.where(target == 1, 4, target), "multiclass"
    return logits[:, :2].contiguous(), target.masked_fill((target > 1) & (target != IGNORE), 0), "multiclass"


def sums_and_gradient(take, logits, target, task, seed=0, weight=None):
    """All sums, and the gradient of a random combination of them: tables of every shape and sign.

    Levels in float64 only: an error that another dtype puts on the border of two may be rounded to either.
    """
    leaf = logits.detach().clone().requires_grad_()
    hard = not target.is_floating_point()
    sums = SUMS if logits.dtype == torch.float64 and hard else SMOOTH
    found = take(leaf, target, task, sums, weight=weight)
    g = torch.Generator().manual_seed(seed)
    total = 0
    for key in sums:
        value = found[key][1] if key.name == "levels" else found[key]
        total = total + (value * torch.randn(value.shape, generator=g, dtype=torch.float64).to(value)).sum()
    total.backward()
    return {key: value.detach() for key, value in found.items()}, leaf.grad


def assert_the_reference_s(logits, target, task, seed=0, weight=None):
    mine, gradient = sums_and_gradient(pixel_sums, logits, target, task, seed, weight)
    plain, expected = sums_and_gradient(reference_sums, logits, target, task, seed, weight)
    absolute, relative = TOLERANCE[logits.dtype]
    for key, value in plain.items():
        assert mine[key].dtype == value.dtype
        torch.testing.assert_close(mine[key], value, atol=3 * absolute, rtol=relative, msg=lambda m, key=key: f"{key}: {m}")
    torch.testing.assert_close(gradient, expected, atol=10 * absolute, rtol=relative)
    return gradient


@every_task
@every_dtype
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6), ignored=st.sampled_from([0.0, 0.3, 1.1]))
def test_sums_and_gradients_are_those_of_the_reference(case, dtype, seed, ignored):
    logits, target, task = batch(case, seed, images=3, size=(3, 5), ignored=ignored, dtype=dtype)
    assert_the_reference_s(logits, target, task, seed)


def test_sums_over_the_batch_are_those_of_its_images():
    logits, target, task = batch("multiclass", 1, images=3)
    images = pixel_sums(logits, target, task, SUMS)
    for key, value in over_batch(images).items():
        expected = sum(pixel_sums(x[None], t[None], task, [key])[key] for x, t in zip(logits, target, strict=True))
        torch.testing.assert_close(value, expected)


def shares_of(logits, target, task, seed):
    """Random class shares where the target is labelled; some are all but 0 or 1."""
    g = torch.Generator().manual_seed(seed)
    drawn = torch.randn(logits.shape, generator=g, dtype=torch.float64) * 3
    drawn = torch.where(torch.rand(drawn.shape, generator=g) < 0.2, drawn * 1000, drawn)
    shares = drawn.softmax(1) if task == "multiclass" else drawn.sigmoid()
    labelled = (target != IGNORE).reshape(len(logits), -1, *logits.shape[2:])
    return torch.where(labelled, shares, torch.nan).to(logits.dtype)


def one_hot(logits, target, task):
    """Labels as class shares of 0 and 1."""
    planes = target.long().reshape(len(logits), -1, *logits.shape[2:])
    positive = torch.arange(logits.shape[1]).view(-1, 1, 1) if task == "multiclass" else 1
    return torch.where(planes == IGNORE, torch.nan, (planes == positive).to(logits.dtype))


def weights_of(logits, seed):
    """Random pixel weights, NaN and 0 among them."""
    g = torch.Generator().manual_seed(seed)
    weight = 3 * torch.rand(len(logits), *logits.shape[2:], generator=g, dtype=torch.float64)
    weight[weight < 0.5] = 0
    weight[weight > 2.8] = torch.nan
    return weight.to(logits.dtype)


@every_task
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("soft", "weighted"), [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("chunk", [4, 40, 110, None])
def test_shares_weights_and_pieces_are_those_of_the_reference(case, dtype, soft, weighted, chunk, monkeypatch):
    """Pieces are a pixel of each image, some, all; and, as on an accelerator, the whole batch without a look at values."""
    if chunk is None:
        monkeypatch.setattr(pieces, "may_look", lambda _: False)
    else:
        monkeypatch.setattr(pieces, "CHUNK", chunk)
    logits, target, task = batch(case, 8, images=3, size=(3, 5), dtype=dtype)
    target = shares_of(logits, target, task, 2) if soft else target
    assert_the_reference_s(logits, target, task, weight=weights_of(logits, 1) if weighted else None)


@every_task
def test_labels_are_shares_of_0_and_1(case):
    logits, target, task = batch(case, 6)
    of_shares, gradient = sums_and_gradient(pixel_sums, logits, one_hot(logits, target, task), task)
    of_labels = pixel_sums(logits, target, task, SMOOTH)
    for key, value in of_shares.items():
        torch.testing.assert_close(value, of_labels[key])
    assert gradient.isfinite().all()


@every_task
@pytest.mark.parametrize("soft", [False, True])
def test_whole_weights_are_repeated_pixels(case, soft):
    """A pixel of weight 3 is three pixels; one of weight 0, or NaN, is none, whatever its logits."""
    logits, target, task = batch(case, 9, images=1, size=(1, 6), ignored=0)
    target = shares_of(logits, target, task, 3) if soft else target
    repeats = torch.tensor([3, 1, 0, 2, 1, 0])
    weight = repeats.double().view(1, 1, -1).masked_fill(torch.arange(6) == 5, torch.nan)
    sums = SMOOTH if soft else SUMS
    found = pixel_sums(logits.masked_fill(repeats == 0, torch.nan), target, task, sums, weight=weight)
    expected = pixel_sums(logits.repeat_interleave(repeats, -1), target.repeat_interleave(repeats, -1), task, sums)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, msg=lambda m, key=key: f"{key}: {m}")


@every_task
def test_strides_and_calls_change_nothing(case):
    logits, target, task = batch(case, 4, size=(3, 5))
    expected = assert_the_reference_s(logits, target, task)
    turned = (logits.mT.contiguous().mT, logits.movedim(0, -1).contiguous().movedim(-1, 0))
    for strided in (logits.contiguous(memory_format=torch.channels_last), *turned, logits):
        gradient = assert_the_reference_s(strided, target, task)
        torch.testing.assert_close(gradient, expected)
        if strided is not turned[1]:
            assert gradient.stride() == strided.stride()
    assert torch.equal(gradient, expected)


@every_task
def test_on_an_accelerator_no_value_is_looked_at(case):
    """Meta tensors have no values: whatever waits for one fails."""
    logits, target, task = batch(case, 3)
    leaf = logits.to("meta").requires_grad_()
    found = over_batch(pixel_sums(leaf, target.to("meta"), task, SUMS))
    sum(value.sum() for value in found.values()).backward()
    assert leaf.grad.shape == logits.shape


@every_task
def test_a_class_ruled_out_by_minus_infinity_costs_nothing(case):
    logits, target, task = batch(case, 2)
    target[target == 1] = 0
    logits[:, -1 if task == "binary" else 1] = -torch.inf
    found, plain = (take(logits, target, task, [SOFT, NLL]) for take in (pixel_sums, reference_sums))
    assert found[NLL].isfinite().all()
    torch.testing.assert_close(found[SOFT], plain[SOFT])


@every_task
def test_no_pixels_and_inference_mode(case):
    logits, target, task = batch(case, 2)
    expected = pixel_sums(logits, target, task, [SOFT])[SOFT]
    with torch.inference_mode():
        found = pixel_sums(logits.clone(), target, task, [SOFT])[SOFT]
    assert torch.equal(found, expected)
    assert not pixel_sums(logits[..., :0], target[..., :0], task, [SOFT])[SOFT].any()


@pytest.mark.parametrize("ignore", [0, -1, 1])
def test_a_class_number_may_be_ignored(ignore):
    logits, target, _ = batch("multiclass", 2, ignored=0)
    found, plain = (take(logits, target.long(), "multiclass", [SOFT], ignore) for take in (pixel_sums, reference_sums))
    torch.testing.assert_close(found[SOFT], plain[SOFT])


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("offset", [-1000, -120, -60, -30, 0, 50, 70, 120, 180, 1000])
def test_logits_of_any_size_are_as_right_as_small_ones(offset, smooth, classes):
    """Exponentials overflow and vanish: of all logits of a pixel, and of one class beside the others."""
    logits = torch.zeros(1, classes, 8, 4)
    logits[..., 0] -= offset
    logits[:, 0, :, 1] += offset
    logits[:, 0] += torch.linspace(-3, 3, 32).view(8, 4)
    target = torch.randint(0, max(classes, 2), (1, 8, 4), generator=torch.Generator().manual_seed(1))
    task, keys = "binary" if classes == 1 else "multiclass", [key for key in SMOOTH if smooth or key != SPREAD]
    found = []
    for of, take in ((logits, pixel_sums), (logits.double(), reference_sums)):
        leaf = of.requires_grad_()
        sums = take(leaf, target, task, keys)
        sum(value.sum() for value in sums.values()).backward()
        found.append((sums, leaf.grad))
    (mine, gradient), (exact, expected) = found
    for key, value in exact.items():
        torch.testing.assert_close(mine[key].double(), value, atol=1e-5, rtol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
    torch.testing.assert_close(gradient.double(), expected, atol=1e-4, rtol=1e-4)


@every_task
def test_nan_reaches_every_sum_but_the_counts(case):
    logits, target, task = batch(case, 2, ignored=0.0)
    logits[0, :, 0, 0] = torch.nan
    for key, value in pixel_sums(logits, target, task, SUMS).items():
        assert value.isnan().any() == (key != COUNT), key
