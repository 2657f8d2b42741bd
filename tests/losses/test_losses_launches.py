"""What the losses ask of an accelerator: few kernels, and no look at values in steady training.

A kernel is an operation of torch that computes: neither a view nor memory alone. They are counted on a CPU, on the path that an
accelerator takes.
"""

import pytest
import torch
from losses_cases import CASES, TERMS, batch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rsseg.losses import Composite, CrossEntropy, Dice, Focal, Lovasz, Tversky, pieces

MEMORY = {"detach", "empty", "empty_like", "new_empty", "empty_strided", "_unsafe_view"}
LOOKS = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2", "unique_dim", "item"}
"""Operations that wait for the device: their values, or shapes, are needed on the host."""

PIXELS = 2 * 8 * 8
"""Of the batches here."""

ON_THE_CPU = ("boundary", "skeleton_recall", "skeleton_recall_image")
"""Terms that say so: they copy the target."""


class Names(list):
    """Names of operations.

    Attributes:
        large: Of each, whether it works on as many numbers as there are pixels.
    """

    def __init__(self):
        super().__init__()
        self.large = []


class Kernels(TorchDispatchMode):
    """The names of the operations that run while this is open."""

    def __enter__(self):
        self.names = Names()
        return super().__enter__()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        if name.startswith("index") and any(
            x.dtype == torch.bool for x in tree_leaves(args[1:]) if isinstance(x, torch.Tensor)
        ):
            self.names.append("nonzero")  # an index of truths is looked up first
            self.names.large.append(True)
        if not operation.is_view and name not in MEMORY:
            self.names.append(name)
            self.names.large.append(any(x.numel() >= PIXELS for x in tree_leaves(args) if isinstance(x, torch.Tensor)))
        return operation(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def on_an_accelerator(monkeypatch):
    monkeypatch.setattr(pieces, "may_look", lambda x: False)


def steady(loss, task, soft=False, weighted=False):
    """The operations of a forward and of a backward pass, when the first calls are over."""
    logits, target = batch(task, images=2, size=(8, 8), dtype=torch.float32)
    if soft:
        target = logits.softmax(1) if task == "multiclass" else logits.sigmoid()
    given = (logits.requires_grad_(), target, *([torch.ones(2, 8, 8)] if weighted else []))
    for _ in range(3):
        loss(*given)
    with Kernels() as forward:
        value = loss(*given)
    with Kernels() as backward:
        value.backward()
    return forward.names, backward.names


def total(**terms):
    composite = Composite({name: (1.0, term) for name, term in terms.items()})
    return lambda *given: composite(*given).total


def four(task):
    return {"ce": CrossEntropy(task), "dice": Dice(task), "focal": Focal(task), "tversky": Tversky(task, 0.3, 0.7)}


@pytest.mark.parametrize(("name", "task"), [case for case in CASES if case[0] not in ON_THE_CPU])
def test_no_term_looks_at_values_in_steady_training(name, task):
    for names in steady(TERMS[name](task), task):
        assert not LOOKS.intersection(names)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_no_composite_looks_at_values_in_steady_training(task, soft, weighted):
    binned = {} if soft else {"lovasz": Lovasz(task, bins=64)}
    for names in steady(total(**four(task), **binned), task, soft, weighted):
        assert not LOOKS.intersection(names)


@pytest.mark.parametrize("look", [lambda x: bool(x.any()), lambda x: x.sum().item(), lambda x: x[x > 0].sum()])
def test_a_look_is_seen(look):
    forward, _ = steady(lambda logits, target: logits.sum() * look(target), "binary")
    assert LOOKS.intersection(forward)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_four_terms_launch_few_kernels(task):
    """The pass over the pixels, whatever the number of terms; the formulas' kernels work on one number per class each."""
    of_pass, all_kernels = [], []
    for operations in steady(total(**four(task)), task):
        of_pass.append(sum(operations.large))
        all_kernels.append(len(operations))
    assert max(of_pass) <= 40
    assert max(all_kernels) <= 85
