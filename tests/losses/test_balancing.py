"""Weights that set themselves, on problems with a known outcome and against the papers' formulas."""

import os
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.distributed as dist
from test_run import folder_data, options, settings, weights
from tiny import compose, logged, power_cut
from torch import nn

from rsseg.assembly import make_setup
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError
from rsseg.losses import Composite, CrossEntropy, Dice, Lovasz, Weight
from rsseg.losses.balancing import (
    DynamicWeightAverage,
    EqualGradients,
    Fixed,
    GradNorm,
    Uncertainty,
    gradient_norms,
    weighed_parts,
)
from rsseg.module import SegmentationModule
from rsseg.run import train
from rsseg.task import Multiclass

TERMS = "balancing.between=terms"
A, B = torch.tensor([3.0, -1.0, 2.0]), torch.tensor([-2.0, 4.0, 0.5])
PARTS = ("a", "b")
ONE = {"one": 1.0, "two": 1.0}


def quadratics(x, scale=1000.0):
    """Two tasks that share x and differ in scale."""
    return {"a": scale * (x - A).square().sum() / 2, "b": (x - B).square().sum() / 2}


def composites():
    ce, dice, lovasz = CrossEntropy("multiclass"), Dice("multiclass"), Lovasz("multiclass")
    return {
        "one": Composite({"ce": (0.7, ce), "dice": (Weight(0.3, start=0.5), dice), "lovasz": (0.0, lovasz)}),
        "two": Composite({"dice": (1.3, dice)}),
    }


def values_at(done):
    z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return z, {head: composite(z, target, done=done) for head, composite in composites().items()}


def test_fixed_weights_are_the_sum_of_before_bit_by_bit():
    for done in (0.0, 1.0):
        z, values = values_at(done)
        before = torch.zeros(()) + values["one"].total + values["two"].total
        now = Fixed()(*weighed_parts(values, "heads", ONE))
        assert torch.equal(now, before)
        assert torch.equal(*(torch.autograd.grad(total, z, retain_graph=True)[0] for total in (now, before)))
        torch.testing.assert_close(Fixed()(*weighed_parts(values, "terms", ONE)), before)


def test_parts_are_heads_or_terms_with_the_weights_of_the_step():
    _, values = values_at(0.25)
    assert weighed_parts(values, "heads", ONE)[1] == {"one": 1.0, "two": 1.0}
    losses, now = weighed_parts(values, "terms", ONE)
    assert now == {"one/ce": 0.7, "one/dice": 0.0, "one/lovasz": 0.0, "two/dice": 1.3}
    assert torch.equal(losses["two/dice"], values["two"].raw["dice"])
    _, now = weighed_parts(values, "terms", {"one": 2.0, "two": 0.5})
    assert (now["one/ce"], now["two/dice"]) == (1.4, 0.65)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_equal_gradients_give_the_closed_form_whatever_the_scales(scale):
    """The minimum of sum_k l_k c_k |x - x_k|^2 / 2, where l_k is the share over the length of the gradient at the start."""
    start, shares = torch.tensor([0.5, 1.0, -1.0]), {"a": 1.0, "b": 3.0}
    balancing = EqualGradients(PARTS, batches=1)
    x = start.clone().requires_grad_()
    balancing(quadratics(x, scale), shares, x)
    a, b, x0 = (v.double().numpy() for v in (A, B, start))
    lengths = {"a": scale * np.linalg.norm(x0 - a), "b": np.linalg.norm(x0 - b)}
    factors = dict(zip(PARTS, balancing.factors().tolist(), strict=True))
    pulls = {name: shares[name] * factors[name] * lengths[name] for name in PARTS}
    assert pulls["b"] == pytest.approx(3 * pulls["a"], rel=1e-5)
    assert sum(shares[name] * factors[name] for name in PARTS) == pytest.approx(4.0, rel=1e-5)
    solver = torch.optim.LBFGS([x], max_iter=50, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        total = balancing(quadratics(x, scale), shares, x)
        total.backward()
        return total

    for _ in range(5):
        solver.step(closure)
    one, other = 1 / np.linalg.norm(x0 - a), 3 / np.linalg.norm(x0 - b)
    np.testing.assert_allclose(x.detach().numpy(), (one * a + other * b) / (one + other), rtol=1e-3, atol=1e-3)


def test_equal_gradients_average_the_first_batches_and_take_a_late_part_beside_the_others():
    parts, shares = ("a", "b", "late"), {"a": 1.0, "b": 1.0, "late": 0.0}
    balancing, lengths = EqualGradients(parts, batches=2), []
    for at in ([0.5, 1.0, -1.0], [5.0, 0.0, 0.0], [-9.0, 9.0, 9.0]):
        x = torch.tensor(at).requires_grad_()
        losses = {**quadratics(x), "late": 0.01 * x.sum().detach()}
        balancing(losses, shares, x)
        lengths.append([1000 * np.linalg.norm(x.detach() - A), np.linalg.norm(x.detach() - B)])
    mean = np.mean(lengths[:2], axis=0)  # not the third
    expected = 2 / (1 / mean).sum() / mean
    np.testing.assert_allclose(balancing.factors()[:2], expected, rtol=1e-5)
    x = torch.zeros(3).requires_grad_()
    balancing({**quadratics(x), "late": 0.01 * x.sum()}, {**shares, "late": 0.5}, x)
    np.testing.assert_allclose(balancing.factors()[:2], expected, rtol=1e-5)
    pull = balancing.factors()[2] * 0.01 * 3**0.5
    assert float(pull) == pytest.approx(expected[0] * mean[0], rel=1e-5)  # as hard, where its weight is as large
    assert float(balancing.weights["late"]) == pytest.approx(0.5 * float(balancing.factors()[2]))


def test_recorded_gradients_are_those_of_the_weights_that_were_found():
    between_terms, between_heads = GradNorm(("mask/ce", "mask/dice")), GradNorm(("mask", "height"))
    for balancing in (between_terms, between_heads):
        balancing.found.copy_(torch.tensor([0.5, 1.5]))
    weighted = {"ce": torch.tensor(2.0), "dice": torch.tensor(4.0), "logged": torch.tensor(0.0)}
    assert between_terms.scaled("mask", weighted) == {"ce": 1.0, "dice": 6.0, "logged": 0.0}
    assert between_heads.scaled("mask", weighted) == {"ce": 1.0, "dice": 2.0, "logged": 0.0}
    assert Fixed(("mask", "height")).scaled("mask", weighted) == weighted


def test_deep_supervision_has_the_factor_of_its_head():
    balancing = GradNorm(("one", "two"))
    balancing.found.copy_(torch.tensor([0.5, 1.5]))
    tasks = {"one": Multiclass(("a", "b", "c")), "two": Multiclass(("a", "b", "c"))}
    module = SegmentationModule(nn.Identity(), composites(), tasks, mean=[0], std=[1], scenes=1, balancing=balancing)
    z, values = values_at(1.0)
    target = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    beside = module._beside({"one/aux1": z, "two/aux1": z}, {"mask": target}, done=1.0)
    for head, factor in {"one": 0.5, "two": 1.5}.items():
        torch.testing.assert_close(beside[head, "aux"], factor * values[head].total / 2)


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_part_that_says_nothing_is_not_measured(name):
    x = torch.tensor([0.5, 1.0, -1.0]).requires_grad_()
    for kind in (EqualGradients, GradNorm):
        balancing = kind(PARTS)
        total = balancing({**quadratics(x), name: 0 * x.sum()}, dict.fromkeys(PARTS, 1.0), x)
        assert total.isfinite()
        assert balancing.factors().isfinite().all()
        assert float(balancing.factors()[PARTS.index(name)]) == 1
    average = DynamicWeightAverage(PARTS, window=1)
    for value in (4.0, 2.0, 0.0):
        average({"a": torch.tensor(value), "b": torch.tensor(3.0)}, dict.fromkeys(PARTS, 1.0))
    assert average.factors().isfinite().all()


def test_the_variance_is_the_residual():
    """Kendall's optimum: of two regressions the variances of their noise, of a classification twice its loss."""
    rng = np.random.default_rng(0)
    noisy, quiet = rng.normal(5, 3, 4000), rng.normal(-2, 0.05, 4000)
    means = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    balancing = Uncertainty(("noisy", "quiet", "labels"), real=("noisy", "quiet")).double()
    solver = torch.optim.LBFGS([means, *balancing.parameters()], max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        found = {"noisy": noisy, "quiet": quiet}
        losses = {n: (torch.from_numpy(y) - means[i]).square().mean() for i, (n, y) in enumerate(found.items())}
        losses["labels"] = torch.tensor(0.3, dtype=torch.float64)
        total = balancing(losses, {"noisy": 1.0, "quiet": 2.0, "labels": 5.0})
        total.backward()
        return total

    for _ in range(5):
        solver.step(closure)
    np.testing.assert_allclose(means.detach(), [noisy.mean(), quiet.mean()], rtol=1e-4)
    np.testing.assert_allclose(balancing.log_variance.detach().exp(), [noisy.var(), quiet.var(), 2 * 0.3], rtol=1e-4)
    expected = [1 / (2 * noisy.var()), 2 / (2 * quiet.var()), 5 / 0.6]
    balancing({name: torch.ones(()) for name in balancing.parts}, {"noisy": 1.0, "quiet": 2.0, "labels": 5.0})
    np.testing.assert_allclose([float(w) for w in balancing.weights.values()], expected, rtol=1e-4)


def test_variances_wait_for_labels_and_weights():
    balancing = Uncertainty(("a", "b", "c"))
    losses = {"a": torch.tensor(0.0), "b": torch.tensor(2.0), "c": torch.tensor(2.0)}
    balancing(losses, {"a": 1.0, "b": 0.0, "c": 1.0}).backward()
    assert balancing.log_variance.grad.tolist() == [0.0, 0.0, 0.5 - 2.0]


def test_dynamic_weight_average_is_the_papers():
    """Windows of 4 batches, temperature 2: the factors of window t come from the means of t - 1 and t - 2."""
    losses = np.random.default_rng(0).uniform(0.1, 3, (24, 3)).cumsum(axis=0)[::-1].copy()
    losses[9, 1] = 0  # a head without labels in that batch
    balancing, found = DynamicWeightAverage(("a", "b", "c"), window=4), []
    for row in losses:
        shares = {"a": 1.0, "b": 2.0, "c": 0.5}
        total = balancing(dict(zip("abc", torch.tensor(row, dtype=torch.float32), strict=True)), shares)
        found.append(balancing.factors().numpy())
        assert float(total) == pytest.approx((found[-1] * row) @ [1.0, 2.0, 0.5], rel=1e-5)
    means = [np.where(w > 0, w, np.nan) for w in losses.reshape(6, 4, 3)]
    means = [np.nanmean(w, axis=0) for w in means]
    expected = [np.ones(3)] * 7  # the second window is complete with the eighth batch
    for before, last in pairwise(means):
        r = np.exp(last / before / 2)
        expected += [3 * r / r.sum()] * 4
    np.testing.assert_allclose(found, expected[:24], rtol=1e-5)


def test_gradnorm_is_the_papers():
    """Its loss and that loss's gradient by autograd, twice through a network, over several steps."""
    torch.manual_seed(0)
    alpha, lr = 1.5, 0.1
    balancing = GradNorm(PARTS, alpha, lr).double()
    x = torch.tensor([0.5, 1.0, -1.0], dtype=torch.float64, requires_grad=True)
    log_w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    first = None
    for _ in range(8):
        total = balancing({k: v**0.7 for k, v in quadratics(x, 20.0).items()}, dict.fromkeys(PARTS, 1.0), x)
        losses = [v**0.7 for v in quadratics(x, 20.0).values()]
        first = first or [float(loss) for loss in losses]
        w = log_w.exp()
        norms = [torch.autograd.grad(w[i] * loss, x, create_graph=True)[0].norm() for i, loss in enumerate(losses)]
        rates = torch.stack([loss.detach() / start for loss, start in zip(losses, first, strict=True)])
        mean = torch.stack(norms).mean().detach()
        asked = mean * (rates / rates.mean()) ** alpha
        paper = sum((norm - goal).abs() for norm, goal in zip(norms, asked, strict=True)) / mean
        with torch.no_grad():
            log_w -= lr * torch.autograd.grad(paper, log_w)[0]
            log_w -= (log_w.exp().sum() / 2).log()
        torch.testing.assert_close(balancing.factors(), log_w.detach().exp())
        expected = sum(w * loss for w, loss in zip(log_w.detach().exp(), losses, strict=True))
        torch.testing.assert_close(total, expected)
        with torch.no_grad():
            x -= 0.02 * torch.autograd.grad(total, x)[0]
    assert not torch.allclose(balancing.factors(), torch.ones(2, dtype=torch.float64), atol=0.1)


def test_gradnorm_makes_gradients_of_unlike_scales_equal():
    balancing, x = GradNorm(PARTS, alpha=0.0), torch.zeros(3).requires_grad_()
    for _ in range(400):
        balancing(quadratics(x), dict.fromkeys(PARTS, 1.0), x)
    lengths = np.array([1000 * np.linalg.norm(A), np.linalg.norm(B)])
    np.testing.assert_allclose(balancing.factors() * lengths, (2 / (1 / lengths).sum()) * np.ones(2), rtol=0.06)


def test_small_gradients_are_measured_in_half_precision():
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)
    image = torch.randn(2, 3, 16, 16)

    def norms(dtype, enabled):
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            z = last(first(image)).float()
        return gradient_norms({"a": 1e-6 * z.square().mean(), "b": z.mean()}, first.weight)

    for dtype in (torch.float16, torch.bfloat16):
        torch.testing.assert_close(norms(dtype, True), norms(dtype, False), rtol=0.02, atol=0)


def methods():
    return {
        "equal_gradients": EqualGradients(PARTS, batches=2),
        "uncertainty": Uncertainty(PARTS),
        "dwa": DynamicWeightAverage(PARTS, window=1),
        "gradnorm": GradNorm(PARTS),
    }


class Balanced(nn.Module):
    """A model of two layers and its balanced loss, of means over the data."""

    def __init__(self, balancing):
        super().__init__()
        self.first, self.shared, self.balancing = nn.Linear(3, 3, bias=False), nn.Linear(3, 1, bias=False), balancing
        nn.init.constant_(self.first.weight, 0.5)
        nn.init.constant_(self.shared.weight, -0.5)

    def forward(self, x):
        y = self.shared(self.first(x)).flatten()
        losses = {"a": 100 * y.square().mean(), "b": (y - x[:, 0]).square().mean()}
        return self.balancing(losses, {"a": 1.0, "b": 2.0}, self.shared.weight)


def balanced(data, world):
    """The factors and gradients of each method after some batches."""
    found = {}
    for name, balancing in methods().items():
        model = Balanced(balancing).double()
        whole = nn.parallel.DistributedDataParallel(model) if world > 1 else model
        for part in data:
            model.zero_grad()
            whole(part).backward()
        found[name] = [balancing.factors().detach(), *(p.grad.clone() for p in model.parameters())]
    return found


def rank_main(rank, store, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.save(balanced([part[4 * rank : 4 * rank + 4] for part in batches()], 2), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


def batches():
    return torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.slow
def test_two_processes_find_the_weights_of_one(tmp_path):
    torch.multiprocessing.start_processes(rank_main, (tmp_path / "store", tmp_path), nprocs=2, start_method="spawn")
    one = balanced(batches(), 1)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), one)


COMMON = [TERMS, "trainer.log_every_n_steps=1", "record.enabled=false", "trainer.accumulate_grad_batches=2"]
COMMON += ["loss.terms.dice.start=0.3", "loss.terms.dice.ramp=0.5", "validations=2", "checkpoint_every=1"]
SHORT = {"dwa": ["balancing.window=3"], "equal_gradients": ["balancing.batches=5"]}


@pytest.mark.usefixtures("quick_runs")
@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=() if x in ("equal_gradients", "uncertainty") else pytest.mark.slow) for x in options("balancing")],
)  # those with a state beside their buffers: counts, and parameters that are trained
def test_a_resumed_run_is_the_one_that_was_not_stopped(tmp_path, folder_root, name):
    words = [*folder_data(folder_root), f"balancing={name}", *COMMON, *SHORT.get(name, []), "steps=8"]
    train(settings(tmp_path, *words), tmp_path / "whole")
    with power_cut(step=3):
        train(settings(tmp_path, *words), tmp_path / "cut")
    again = [f"resume={tmp_path / 'cut'}"]
    train(settings(tmp_path, *again), tmp_path / "cut", again)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    rows, others = (logged(tmp_path / run) for run in ("whole", "cut"))
    assert rows == others
    ce, dice = ([row[key] for row in rows if key in row] for key in ("train/balance/ce", "train/balance/dice"))
    assert len(ce) == len(dice) == (0 if name == "fixed" else 8)
    assert (tmp_path / "whole/balance.png").is_file() == (name != "fixed")
    if name != "fixed":
        assert dice[:2] == [0, 0]  # it has not begun
        assert {*ce, dice[-1]} != {1.0}


def test_log_variances_are_trained_without_decay(tmp_path):
    setup = make_setup(compose(["balancing=uncertainty", TERMS, "optimizer.weight_decay=0.5", "optimizer.encoder_lr=0.1"]))
    balancing = setup.balancing()
    for rates in (setup, make_setup(compose(["balancing=uncertainty", TERMS, "optimizer.weight_decay=0.5"]))):
        network = rates.network()
        optimizer = rates.optimizer(list(network.parameters()), network, list(balancing.parameters()))
        *groups, last = optimizer.param_groups
        assert (last["params"], last["weight_decay"], last["lr"]) == ([balancing.log_variance], 0.0, 1e-3)
        assert {group["weight_decay"] for group in groups} == {0.5}


def test_runs_of_before_have_fixed_weights(tmp_path):
    config = compose([])
    plain = make_setup(config).plain
    plain.pop("balancing")
    run = RunFolder(tmp_path)
    run.write_config(plain)
    assert "balancing" not in (tmp_path / "config.yaml").read_text()
    assert run.differences(config) == {}
    assert isinstance(make_setup(run.config()).balancing(), Fixed)


def test_gradients_need_a_shared_layer_that_is_trained():
    with pytest.raises(InputError, match="none that is trained: take balancing=uncertainty or dwa"):
        make_setup(compose(["balancing=gradnorm", TERMS, "model.freeze=[encoder,decoder]"])).network()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["balancing=gradnorm"], r"between=heads: with one head alone \(mask\) .* take balancing\.between=terms, or"),
        (["balancing=dwa", TERMS, "loss=ce"], r"with one term alone \(ce\)"),
        (["balancing=dwa", TERMS, "loss.terms.ce.weight=0"], r"with one term alone \(dice\)"),
        (["balancing=dwa", "balancing.between=term"], "between=term.*: heads or terms is expected"),
        (["balancing=equal_gradients", TERMS, "balancing.batches=0"], "batches has to be a number of 1 or more"),
        (["balancing=dwa", TERMS, "balancing.window=2.5"], "window has to be a whole number"),
        (["balancing=dwa", TERMS, "balancing.temperature=0"], "temperature has to be more than 0"),
        (["balancing=gradnorm", TERMS, "balancing.alpha=-1"], "alpha has to be a number of 0 or more"),
        (["balancing=gradnorm", TERMS, "balancing.lr=2"], "lr has to be a number from 0 to 1"),
        (["balancing=gradnorm", TERMS, "balancing.lrr=2"], r"balancing\.lrr: .*did you mean 'lr'"),
        (["balancing=uncertainty", TERMS, "loss=ce_dice_boundary"], r"loss\.terms\.boundary: Boundary may be negative"),
        (["balancing._target_=rsseg.losses.Dice"], "is not a balancing"),
        (["balancing=dwa", TERMS, "+loss.terms.x={weight: 1}"], r"loss\.terms\.x has no _target_"),
    ],
)
def test_mistakes_are_told_in_one_line(words, message):
    with pytest.raises(InputError, match=message) as caught:
        make_setup(compose(words))
    assert len(str(caught.value).splitlines()) == 1
