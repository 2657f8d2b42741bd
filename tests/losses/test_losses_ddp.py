"""Two ranks give the value and the gradient of one process."""

import os

import pytest
import torch
import torch.distributed as dist
from losses_cases import CHANNELS, OF_LABELS, TERMS, batch
from test_losses_centres import batch as centres
from torch import nn

from rsseg.losses import Composite, HeatFocal, OffsetSmoothL1, SizeSmoothL1


def scenario(name, task):
    """A linear model, its input and an uneven target: the first of four images almost all ignored."""
    logits, target = batch(task, seed=7, images=4)
    target[0, ..., 1:] = 255
    target[3][target[3] == 1] = 0
    model = nn.Conv2d(CHANNELS[task], CHANNELS[task], 1).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(torch.linspace(-1, 1 + i, p.numel()).view_as(p))
    return model, TERMS[name](task), logits, target


def result(model, term, image, target):
    value = term(model(image), target)
    value.backward()
    return [value.detach(), *(p.grad.clone() for p in model.parameters())]


def objects():
    """The same of objects; the first image has no centre."""
    logits, target = centres(shape=(4, 5, 6))
    target[0, 2:], target[0, :2] = torch.nan, target[0, :2].clamp(max=0.9)
    model = nn.Conv2d(6, 6, 1).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.linspace(-1, 1, p.numel()).view_as(p))
    terms = {"heat": (1.0, HeatFocal()), "size": (0.1, SizeSmoothL1()), "offset": (1.0, OffsetSmoothL1())}
    loss = Composite(terms)
    return model, lambda z, t: loss(z, t).total, logits, target


def rank_main(rank, store, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = {}
    for name, task in OF_LABELS:
        model, term, image, target = scenario(name, task)
        half = slice(0, 1) if rank == 0 else slice(1, 4)  # ranks need not have equally many
        found[name, task] = result(nn.parallel.DistributedDataParallel(model), term, image[half], target[half])
    model, term, image, target = objects()
    half = slice(0, 1) if rank == 0 else slice(1, 4)
    found["objects"] = result(nn.parallel.DistributedDataParallel(model), term, image[half], target[half])
    # one rank without a single valid pixel must neither hang nor spoil the other
    model, term, image, target = scenario("dice", "multiclass")
    target[:2] = 255
    half = slice(2 * rank, 2 * rank + 2)
    found["empty rank"] = result(nn.parallel.DistributedDataParallel(model), term, image[half], target[half])
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # all is written; gloo's threads, torn down by the interpreter, now and then abort the process instead


@pytest.mark.slow
def test_two_ranks_are_one_process(tmp_path):
    torch.multiprocessing.start_processes(rank_main, (tmp_path / "store", tmp_path), nprocs=2, start_method="spawn")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for case in OF_LABELS:
        for rank in ranks:
            torch.testing.assert_close(rank[case], result(*scenario(*case)), msg=lambda m, case=case: f"{case}: {m}")
    for rank in ranks:
        torch.testing.assert_close(rank["objects"], result(*objects()))
    model, term, image, target = scenario("dice", "multiclass")
    target[:2] = 255
    torch.testing.assert_close(ranks[0]["empty rank"], result(model, term, image, target))
