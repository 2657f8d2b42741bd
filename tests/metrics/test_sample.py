import numpy as np
import pytest
import torch
import torch.distributed as dist

from rsseg.contract import IGNORE, InputError
from rsseg.metrics import LogitSample


def windows(n=6, size=12):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, 3, size, size, generator=generator)
    target = torch.multinomial(torch.tensor([0.9, 0.08, 0.02]), n * size * size, True, generator=generator)
    target = target.view(n, size, size).to(torch.uint8)
    target[torch.rand(target.shape, generator=generator) < 0.1] = IGNORE
    return logits, target, torch.tensor([0, 1, 0, 2, 1, 0]), torch.arange(n)


def sampled(batches, most=5):
    sample = LogitSample(3, scenes=4, most=most)
    data = windows()
    for batch in batches:
        sample.update(*(x[batch] for x in data))
    return sample.compute()


def test_every_class_of_every_scene_is_kept_and_weighs_what_it_stands_for():
    logits, target, scene, _ = windows()
    found = sampled([[0, 1, 2, 3, 4, 5]])
    for s in range(4):
        for c in range(3):
            pixels = int((target[scene == s] == c).sum())
            ours = (found.scene == s) & (found.target == c)
            assert ours.sum() == min(pixels, 5)
            assert found.weight[ours].sum() == pytest.approx(pixels)
    pool = {tuple(z) for z in logits.movedim(1, -1)[target != IGNORE].tolist()}
    kept = [tuple(z) for z in found.logits.tolist()]
    assert set(kept) <= pool
    assert len(set(kept)) == len(kept)
    rows = {tuple(z): y for z, y in zip(logits.movedim(1, -1).reshape(-1, 3).tolist(), target.flatten().tolist(), strict=True)}
    assert [rows[z] for z in kept] == found.target.tolist()


def test_the_sample_does_not_depend_on_batches_or_their_order():
    whole, parts = sampled([[0, 1, 2, 3, 4, 5]]), sampled([[5, 3], [1], [0, 2, 4]])
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a, b)


def test_all_pixels_are_equally_likely():
    chosen = np.zeros(20)
    for seed in range(600):
        sample = LogitSample(2, scenes=1, most=5, seed=seed)
        place = torch.arange(20.0).expand(1, 2, 1, 20)
        sample.update(place[..., :10], torch.zeros(1, 1, 10, dtype=torch.uint8), torch.tensor([0]), torch.tensor([0]))
        sample.update(place[..., 10:], torch.zeros(1, 1, 10, dtype=torch.uint8), torch.tensor([0]), torch.tensor([1]))
        chosen[sample.compute().logits[:, 0].long().numpy()] += 1
    assert np.abs(chosen - 150).max() < 4.5 * (600 * 0.25 * 0.75) ** 0.5


def test_nothing_labelled_gives_nothing_and_no_pixels_are_refused():
    sample = LogitSample(3, scenes=1)
    ignored = torch.full((1, 4, 4), IGNORE, dtype=torch.uint8)
    sample.update(torch.zeros(1, 3, 4, 4), ignored, torch.tensor([0]), torch.tensor([0]))
    assert sample.compute().logits.shape == (0, 3)
    with pytest.raises(InputError, match="most=0"):
        LogitSample(3, 1, most=0)


def rank_main(rank, store, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.save(tuple(sampled([[[0, 3, 4], [1, 2, 5]][rank]])), out / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_draw_what_one_does(tmp_path):
    torch.multiprocessing.start_processes(rank_main, (tmp_path / "store", tmp_path), nprocs=2, start_method="fork")
    whole = sampled([[0, 1, 2, 3, 4, 5]])
    for rank in range(2):
        for a, b in zip(whole, torch.load(tmp_path / f"{rank}.pt"), strict=True):
            assert torch.equal(a, b)
