"""The one pass gives what its plain PyTorch reference gives, whatever the batch, the sums and the threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses_cases import CASES, CHANNELS, TERMS, batch

from rsseg.contract import IGNORE
from rsseg.losses import Composite, onepass
from rsseg.losses.functional import COUNT, NLL, SOFT, SPREAD, Sum, statistics

SMOOTH = (COUNT, SOFT, NLL, SPREAD, Sum("focal", 2.0), Sum("focal", 0.5), Sum("focal", 0.0))
SUMS = (*SMOOTH, Sum("levels", 16))
TOLERANCE = {
    torch.float64: (1e-10, 1e-9),
    torch.float32: (2e-5, 2e-5),
    torch.bfloat16: (4e-3, 2e-2),
    torch.float16: (1e-3, 4e-3),
}
every_task = pytest.mark.parametrize("task", CHANNELS)
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(onepass, "CHUNK", (12, 20))


def sums_and_gradient(logits, target, task, over, backend, seed=0):
    """All sums, and the gradient of a random combination of them: tables of every shape and sign.

    Levels in float64 only: an error that another dtype puts on the border of two may be rounded to either.
    """
    leaf = logits.detach().clone().requires_grad_()
    sums = SUMS if logits.dtype == torch.float64 else SMOOTH
    found = statistics(leaf, target, task, [(key, over) for key in sums], backend=backend)
    g = torch.Generator().manual_seed(seed)
    total = 0
    for key in sums:
        value = found[key, over]
        value = value[1] if key.name == "levels" else value
        total = total + (value * torch.randn(value.shape, generator=g, dtype=torch.float64).to(value)).sum()
    total.backward()
    return {key: value.detach() for key, value in found.items()}, leaf.grad


@every_task
@every_dtype
@pytest.mark.parametrize("over", ["batch", "image"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6), ignored=st.sampled_from([0.0, 0.3, 1.1]))
def test_sums_and_gradients_are_those_of_the_reference(task, dtype, over, seed, ignored):
    logits, target = batch(task, seed, images=3, size=(3, 5), ignored=ignored, dtype=dtype)
    mine, gradient = sums_and_gradient(logits, target, task, over, "auto", seed)
    plain, expected = sums_and_gradient(logits, target, task, over, "reference", seed)
    absolute, relative = TOLERANCE[dtype]
    for key, value in plain.items():
        assert mine[key].dtype == value.dtype
        torch.testing.assert_close(mine[key], value, atol=absolute, rtol=relative, msg=lambda m, key=key: f"{key}: {m}")
    torch.testing.assert_close(gradient, expected, atol=10 * absolute, rtol=relative)


@every_task
@pytest.mark.parametrize("over", ["batch", "image"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_chunks_threads_and_layouts_change_nothing(task, over, threads, layout, small_chunks):
    logits, target = batch(task, 3, images=3, size=(5, 7))
    before = torch.get_num_threads()
    plain, expected = sums_and_gradient(logits, target, task, over, "reference")
    torch.set_num_threads(threads)
    try:
        mine, gradient = sums_and_gradient(logits.to(memory_format=layout), target, task, over, "auto")
        again, same = sums_and_gradient(logits.to(memory_format=layout), target, task, over, "auto")
    finally:
        torch.set_num_threads(before)
    for key, value in plain.items():
        torch.testing.assert_close(mine[key], value)
        assert torch.equal(mine[key], again[key])
    torch.testing.assert_close(gradient, expected)
    assert torch.equal(gradient, same)
    assert gradient.is_contiguous(memory_format=layout)


@every_task
def test_logits_of_any_strides(task):
    logits, target = batch(task, 4, size=(3, 5))
    _, expected = sums_and_gradient(logits, target, task, "batch", "reference")
    for strided in (logits.mT.contiguous().mT, logits.movedim(0, -1).contiguous().movedim(-1, 0)):
        _, gradient = sums_and_gradient(strided, target, task, "batch", "auto")
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("name", "task"), CASES, ids=[f"{n}-{t}" for n, t in CASES])
@every_dtype
def test_terms_are_those_of_the_reference(name, task, dtype):
    if name.startswith("levels") and dtype != torch.float64:
        return
    logits, target = batch(task, 5, dtype=dtype)
    found = []
    for backend in ("auto", "reference"):
        leaf = logits.clone().requires_grad_()
        value = Composite({name: (1, TERMS[name](task))}, backend=backend)(leaf, target).total
        value.backward()
        found.append((value.detach(), leaf.grad))
    absolute, relative = TOLERANCE[dtype]
    torch.testing.assert_close(found[0], found[1], atol=absolute, rtol=relative)


@every_task
def test_a_class_ruled_out_by_minus_infinity_costs_nothing(task):
    logits, target = batch(task, 2)
    target[target == 1] = 0
    logits[:, -1 if task == "binary" else 1] = -torch.inf
    found = statistics(logits, target, task, [(SOFT, "batch"), (NLL, "batch")])
    plain = statistics(logits, target, task, [(SOFT, "batch"), (NLL, "batch")], backend="reference")
    assert found[NLL, "batch"].isfinite().all()
    torch.testing.assert_close(found[SOFT, "batch"], plain[SOFT, "batch"])


@every_task
def test_nan_at_a_valid_pixel_shows(task):
    logits, target = batch(task, 2)
    valid = (target != IGNORE) if task != "multilabel" else (target != IGNORE).all(1)
    image, row, column = valid.nonzero()[0].tolist()
    logits[image, 0, row, column] = torch.nan
    found = statistics(logits, target, task, [(SOFT, "batch"), (NLL, "batch")])
    assert found[SOFT, "batch"].isnan().any()
    assert found[NLL, "batch"].isnan().any()


@every_task
def test_no_pixels_and_inference_mode(task):
    logits, target = batch(task, 2)
    expected = statistics(logits, target, task, [(SOFT, "batch")])[SOFT, "batch"]
    with torch.inference_mode():
        found = statistics(logits.clone(), target, task, [(SOFT, "batch")])[SOFT, "batch"]
    assert torch.equal(found, expected)
    assert torch.equal(statistics(logits, target, task, [(SOFT, "batch")])[SOFT, "batch"], expected)
    assert not statistics(logits[..., :0], target[..., :0], task, [(SOFT, "batch")])[SOFT, "batch"].any()


@pytest.mark.parametrize("ignore", [0, -1, 1])
def test_a_class_number_may_be_ignored(ignore):
    logits, target = batch("multiclass", 2, ignored=0)
    found, plain = (
        statistics(logits, target.long(), "multiclass", [(SOFT, "batch")], ignore, backend) for backend in ("auto", "reference")
    )
    torch.testing.assert_close(found[SOFT, "batch"], plain[SOFT, "batch"])


@pytest.mark.parametrize("offset", [0, 50, 70, 120, 180, 1000])
def test_pixels_far_from_the_others_are_as_right_as_they(offset):
    """Where the logits of one pixel of a chunk lie far below those of another, one shift does not serve both."""
    logits = torch.zeros(1, 2, 4, 4)
    logits[..., 0] -= offset
    logits[:, 0] += torch.linspace(-3, 3, 16).view(4, 4)
    target = torch.randint(0, 2, (1, 4, 4), generator=torch.Generator().manual_seed(1))
    needs = [(key, "batch") for key in SMOOTH]
    mine = statistics(logits, target, "multiclass", needs)
    exact = statistics(logits.double(), target, "multiclass", needs, backend="reference")
    for key, value in exact.items():
        torch.testing.assert_close(mine[key].double(), value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("task", CHANNELS)
def test_nan_reaches_every_sum_but_the_counts(task, backend):
    logits, target = batch(task, 2, ignored=0.0)
    logits[0, :, 0, 0] = torch.nan
    found = statistics(logits, target, task, [(key, "batch") for key in SUMS], backend=backend)
    for (key, _), value in found.items():
        assert value.isnan().any() == (key != COUNT), key
