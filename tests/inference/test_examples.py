"""The windows that models label most differently are found and drawn."""

import numpy as np
import pytest
import torch
from PIL import Image

from rsseg.contract import IGNORE
from rsseg.inference.examples import Example, disagreement, draw_examples, most_different
from rsseg.task import Binary

TWO = Binary(("water",))


class Constant(torch.nn.Module):
    """Predicts water left of a column."""

    device = torch.device("cpu")

    def __init__(self, column):
        super().__init__()
        self.column, self.tasks = column, {"mask": TWO}

    def normalise(self, images):
        return images.float()

    def labels(self, head, logits):
        return self.tasks[head].predict(logits)

    def forward(self, images):
        place = torch.arange(images.shape[-1]).expand(len(images), 1, *images.shape[-2:])
        return {"mask": torch.where(place < self.column, 1.0, -1.0) * images[:, :1]}


def window(sign, mask=0):
    return {"image": torch.full((1, 3, 4, 8), sign), "mask": torch.full((1, 4, 8), mask, dtype=torch.uint8)}


def test_disagreement_is_of_labelled_pixels():
    mask = np.array([[0, 1, IGNORE, IGNORE]])
    models = [np.array([[0, 1, 0, 1]]), np.array([[0, 0, 1, 0]]), np.array([[0, 1, 0, 0]])]
    assert disagreement(Example(np.zeros((3, 1, 4)), mask, models)) == 0.5
    assert disagreement(Example(np.zeros((3, 1, 4)), np.full((1, 4), IGNORE), models)) == 0
    both = np.array([[[0, 1]], [[0, IGNORE]]])  # two labels of a pixel each
    assert disagreement(Example(np.zeros((3, 1, 2)), both, [both, np.where(both == 1, 0, both)])) == pytest.approx(1 / 3)


def test_the_windows_that_differ_most_come_first():
    windows = [window(0.0), window(1.0), window(1.0, IGNORE)]  # at 0 no pixel is water, whichever model
    found = most_different(windows, "mask", (Constant(column) for column in (2, 6)), 2)
    assert [disagreement(example) for example in found] == [0.5, 0.0]
    assert [prediction.sum() for prediction in found[0].predictions] == [8, 24]


@pytest.mark.parametrize(("models", "panels"), [(2, (1, 4)), (3, (2, 3)), (5, (2, 4))])
def test_every_model_has_its_panel(tmp_path, models, panels):
    zero, one = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    example = Example(np.random.default_rng(0).random((3, 4, 4)), one, [zero] * (models - 1) + [one])
    draw_examples(tmp_path / "x.png", TWO, ["#ff0000", "#0000ff"], [example], [f"m{i}" for i in range(models)])
    pixels = np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).astype(int)
    height, width = pixels.shape[:2]
    assert width / height == pytest.approx(5.2 / ((5.2 / panels[1] + 0.25) * panels[0] + 0.5), abs=0.02)
    red, blue = ((pixels == colour).all(-1).sum() for colour in ([255, 0, 0], [0, 0, 255]))
    assert red / blue == pytest.approx((models - 1) / 2, rel=0.1)  # the mask and one model are blue, the others red
