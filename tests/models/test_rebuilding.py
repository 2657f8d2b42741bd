"""A network that rebuilds images, the loss that leaves the class out, and windows without it."""

import numpy as np
import pytest
import torch
from tiny import compose

from rsseg.assembly import make_setup
from rsseg.contract import IGNORE, InputError
from rsseg.data.balance import Without
from rsseg.losses import OneClass
from rsseg.task import Binary, Multiclass

BINARY = ["dataset.task=binary", "dataset.classes=[building]", "dataset.palette=null", "dataset.mask_values=[[0,2,3,4],1]"]
ONE_CLASS = ["experiment=one_class", *BINARY]


def test_the_logit_is_the_logarithm_of_the_error():
    network = make_setup(compose(ONE_CLASS)).network().eval()
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    logits = network(image)["mask"]
    error = (network.net(image) - image).square().mean(dim=1, keepdim=True)
    torch.testing.assert_close(logits.exp(), error, atol=2e-6, rtol=1e-4)
    assert logits.shape == (2, 1, 64, 64)


def test_the_loss_is_that_of_the_pixels_without_the_class():
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, (2, 1, 8, 9))
    target = rng.choice(np.array([0, 1, IGNORE], np.uint8), (2, 8, 9))
    logits = torch.from_numpy(z).requires_grad_()
    loss = OneClass("binary")(logits, torch.from_numpy(target))
    rest = target == 0
    assert float(loss) == pytest.approx(np.log1p(np.exp(z[:, 0][rest])).mean(), rel=1e-12)
    loss.backward()
    gradient = np.where(rest, 1 / (1 + np.exp(-z[:, 0])) / rest.sum(), 0)
    np.testing.assert_allclose(logits.grad[:, 0].numpy(), gradient, rtol=1e-10, atol=1e-15)
    assert float(OneClass("binary")(logits, torch.ones(2, 8, 9, dtype=torch.uint8))) == 0


def test_windows_show_nothing_of_the_class():
    mask = np.zeros((100, 100), np.uint8)
    mask[:, 60:] = 2

    def read(scene, top, left, size):
        part = np.pad(mask, 40)[top + 40 : top + 40 + size, left + 40 : left + 40 + size]
        return np.zeros((1, size, size)), {"mask": part}

    task = Multiclass(("land", "road", "water"))
    sampler = Without(1, np.array([[100, 100]]), 32, task, read, ["water"])
    places = [sampler(k) for k in range(200)]
    lefts = [left for _, _, left in places]
    assert max(lefts) <= 28
    assert len(set(lefts)) > 20, "all that show none are drawn"
    assert places == [sampler(k) for k in range(200)]
    with pytest.raises(InputError, match="no window of 32 px without land or road or water"):
        Without(1, np.array([[100, 100]]), 32, task, read, ["land", "road", "water"])(0)
    with pytest.raises(InputError, match=r"no class watr \(did you mean 'water'\?\)"):
        Without(1, np.array([[100, 100]]), 32, task, read, ["watr"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["model.aux=1", "model=unet"], "model.rebuild=true has one output, the image: leave model.aux=1 out"),
        (
            ["dataset.task=multiclass", "dataset.classes=[a,b]", "dataset.mask_values=[[0,2,3],[1,4]]"],
            "one head of a binary task",
        ),
    ],
)
def test_what_does_not_go_together(more, message):
    loss = "ce" if "dataset.task=multiclass" in more else "one_class"
    model = ["model.rebuild=true", f"loss={loss}"]
    with pytest.raises(InputError, match=message):
        make_setup(compose([*BINARY, *model, *more]))


def test_a_binary_task_alone():
    assert OneClass.tasks == ("binary",)
    assert Binary.kind in OneClass.tasks
