"""The one pass gives what its plain PyTorch reference gives, whatever the batch, the sums and the threads."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses_cases import CASES, CHANNELS, TERMS
from losses_cases import batch as batch_of_task

from rsseg.contract import IGNORE
from rsseg.losses import Composite, onepass
from rsseg.losses.functional import COUNT, NLL, SOFT, SPREAD, Sum, statistics
from rsseg.losses.threads import share

SMOOTH = (COUNT, SOFT, NLL, SPREAD, Sum("focal", 2.0), Sum("focal", 0.5), Sum("focal", 0.0))
SUMS = (*SMOOTH, Sum("levels", 16))
TOLERANCE = {
    torch.float64: (1e-10, 1e-9),
    torch.float32: (2e-5, 2e-5),
    torch.bfloat16: (4e-3, 2e-2),
    torch.float16: (1e-3, 4e-3),
}
PAIR = "multiclass of two"
every_task = pytest.mark.parametrize("case", [*CHANNELS, PAIR])
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE)


def batch(case, *arguments, **options):
    """As `losses_cases.batch`, and the task; two classes are a case of their own, which one sigmoid does."""
    if case != PAIR:
        return *batch_of_task(case, *arguments, **options), case
    logits, target = batch_of_task("multiclass", *arguments, **options)
    return logits[:, :2].contiguous(), target.masked_fill((target > 1) & (target != IGNORE), 0), "multiclass"


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(onepass, "CHUNK", (12, 20))
    monkeypatch.setattr(onepass, "ALONE", 1)


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
def test_sums_and_gradients_are_those_of_the_reference(case, dtype, over, seed, ignored):
    logits, target, task = batch(case, seed, images=3, size=(3, 5), ignored=ignored, dtype=dtype)
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
def test_chunks_threads_and_layouts_change_nothing(case, over, threads, layout, small_chunks):
    logits, target, task = batch(case, 3, images=3, size=(5, 7))
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


def test_each_thread_works_alone():
    """PyTorch's threads within ours would be many more than there are cores, and wait for each other in every operation."""
    before, meeting, found = torch.get_num_threads(), threading.Barrier(3), []

    def work(_job, _scratch):
        meeting.wait(60)  # every thread has one
        found.append(torch.get_num_threads())

    torch.set_num_threads(3)
    try:
        share(work, range(3), 3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert found == [1, 1, 1]


@every_task
def test_logits_of_any_strides(case):
    logits, target, task = batch(case, 4, size=(3, 5))
    _, expected = sums_and_gradient(logits, target, task, "batch", "reference")
    for strided in (logits.mT.contiguous().mT, logits.movedim(0, -1).contiguous().movedim(-1, 0)):
        _, gradient = sums_and_gradient(strided, target, task, "batch", "auto")
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("name", "task"), CASES, ids=[f"{n}-{t}" for n, t in CASES])
@every_dtype
def test_terms_are_those_of_the_reference(name, task, dtype):
    if name.startswith("levels") and dtype != torch.float64:
        return
    logits, target = batch_of_task(task, 5, dtype=dtype)
    found = []
    for backend in ("auto", "reference"):
        leaf = logits.clone().requires_grad_()
        value = Composite({name: (1, TERMS[name](task))}, backend=backend)(leaf, target).total
        value.backward()
        found.append((value.detach(), leaf.grad))
    absolute, relative = TOLERANCE[dtype]
    torch.testing.assert_close(found[0], found[1], atol=absolute, rtol=relative)


@every_task
def test_a_class_ruled_out_by_minus_infinity_costs_nothing(case):
    logits, target, task = batch(case, 2)
    target[target == 1] = 0
    logits[:, -1 if task == "binary" else 1] = -torch.inf
    found = statistics(logits, target, task, [(SOFT, "batch"), (NLL, "batch")])
    plain = statistics(logits, target, task, [(SOFT, "batch"), (NLL, "batch")], backend="reference")
    assert found[NLL, "batch"].isfinite().all()
    torch.testing.assert_close(found[SOFT, "batch"], plain[SOFT, "batch"])


@every_task
def test_nan_at_a_valid_pixel_shows(case):
    logits, target, task = batch(case, 2)
    valid = (target != IGNORE) if task != "multilabel" else (target != IGNORE).all(1)
    image, row, column = valid.nonzero()[0].tolist()
    logits[image, 0, row, column] = torch.nan
    found = statistics(logits, target, task, [(SOFT, "batch"), (NLL, "batch")])
    assert found[SOFT, "batch"].isnan().any()
    assert found[NLL, "batch"].isnan().any()


@every_task
def test_no_pixels_and_inference_mode(case):
    logits, target, task = batch(case, 2)
    expected = statistics(logits, target, task, [(SOFT, "batch")])[SOFT, "batch"]
    with torch.inference_mode():
        found = statistics(logits.clone(), target, task, [(SOFT, "batch")])[SOFT, "batch"]
    assert torch.equal(found, expected)
    assert torch.equal(statistics(logits, target, task, [(SOFT, "batch")])[SOFT, "batch"], expected)
    assert not statistics(logits[..., :0], target[..., :0], task, [(SOFT, "batch")])[SOFT, "batch"].any()


@pytest.mark.parametrize("ignore", [0, -1, 1])
def test_a_class_number_may_be_ignored(ignore):
    logits, target, _ = batch("multiclass", 2, ignored=0)
    found, plain = (
        statistics(logits, target.long(), "multiclass", [(SOFT, "batch")], ignore, backend) for backend in ("auto", "reference")
    )
    torch.testing.assert_close(found[SOFT, "batch"], plain[SOFT, "batch"])


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
    for of, backend in ((logits, "auto"), (logits.double(), "reference")):
        leaf = of.requires_grad_()
        sums = statistics(leaf, target, task, [(key, "batch") for key in keys], backend=backend)
        sum(value.sum() for value in sums.values()).backward()
        found.append((sums, leaf.grad))
    (mine, gradient), (exact, expected) = found
    for key, value in exact.items():
        torch.testing.assert_close(mine[key].double(), value, atol=1e-5, rtol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
    torch.testing.assert_close(gradient.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@every_task
def test_nan_reaches_every_sum_but_the_counts(case, backend):
    logits, target, task = batch(case, 2, ignored=0.0)
    logits[0, :, 0, 0] = torch.nan
    found = statistics(logits, target, task, [(key, "batch") for key in SUMS], backend=backend)
    for (key, _), value in found.items():
        assert value.isnan().any() == (key != COUNT), key
