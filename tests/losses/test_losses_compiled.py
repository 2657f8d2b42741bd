"""What a GPU compiles is what is computed without: by the same functions, which torch's compiler makes C++ of on a CPU."""

import logging
import shutil

import pytest
import torch
from losses_cases import batch

from rsseg.losses import Composite, CrossEntropy, Dice, Lovasz, compiled, pieces

with_a_compiler = pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="there is no C++ compiler")


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Functions are compiled; what is not computes as an accelerator does."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(pieces, "may_look", lambda x: False)
    yield lambda on: monkeypatch.setattr(compiled, "is_compiled", lambda x: on and not torch.compiler.is_compiling())
    torch._dynamo.reset()


def mixture(task, soft):
    terms = {"ce": CrossEntropy(task), "dice": Dice(task, over="image")}
    if not soft:
        terms["lovasz"] = Lovasz(task, bins=64)
    return Composite({name: (1.0, term) for name, term in terms.items()})


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("rsseg")]


def values_and_gradients(loss, logits, *given):
    """Of each term, as balancing by gradients asks for them: one after the other, of one graph."""
    leaf = logits.clone().requires_grad_()
    raw = loss(leaf, *given).raw
    gradients = [torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in raw.values()]
    return {name: value.detach() for name, value in raw.items()}, gradients


@pytest.mark.slow
@with_a_compiler
@pytest.mark.parametrize(
    ("task", "dtype", "soft", "weighted"),
    [
        ("binary", torch.float32, False, False),
        ("multiclass", torch.bfloat16, False, False),
        ("multilabel", torch.float32, True, True),
    ],
)
def test_compiled_losses_are_those_that_are_not(task, dtype, soft, weighted, as_on_a_gpu, caplog):
    loss = mixture(task, soft)
    for images in (2, 3, 4):  # the second shape makes the graph dynamic, the third fits
        logits, target = batch(task, images, images=images, size=(8, 8), dtype=dtype)
        if soft:
            drawn = batch(task, images + 9, images=images, size=(8, 8), dtype=torch.float32)[0]
            target = drawn.softmax(1) if task == "multiclass" else drawn.sigmoid()
        weight = [torch.rand(images, 8, 8)] if weighted else []
        as_on_a_gpu(False)
        plain, expected = values_and_gradients(loss, logits, target, *weight)
        as_on_a_gpu(True)
        values, gradients = values_and_gradients(loss, logits, target, *weight)
        torch.testing.assert_close(values, plain, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(gradients, expected, atol=1e-7, rtol=1e-5 if dtype == torch.float32 else 8e-3)
    assert not said(caplog)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_without_a_compiler_one_line_says_so(as_on_a_gpu, monkeypatch, caplog):
    def fails(function, **options):
        def call(*arguments, **named):
            raise RuntimeError("Cannot find a working triton installation.\nmore")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    as_on_a_gpu(True)
    logits = torch.ones(2)
    seen = []

    @compiled.compiled_on_gpu
    def double(*, logits):
        seen.append(logits)
        return 2 * logits

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert torch.equal(double(logits=logits), 2 * logits)
    assert said(caplog) == [
        "losses run without torch.compile, which fails here: RuntimeError: Cannot find a working triton installation."
    ]
    assert len(seen) == 3
