"""Draw the pictures of losses.md: python docs/losses_pictures.py"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import torch

from rsseg.losses import (
    MAE,
    MSE,
    CrossEntropy,
    Dice,
    Focal,
    FocalTversky,
    Huber,
    Jaccard,
    LogCosh,
    Lovasz,
    Tversky,
)

FOLDER = Path(__file__).parent
SHARE, SIDE = 0.05, 100  # of foreground pixels, and the scene's side
TERMS = {
    "CE": CrossEntropy("binary"),
    "Focal, gamma 2": Focal("binary"),
    "Dice": Dice("binary"),
    "Jaccard": Jaccard("binary"),
    "Tversky .3 / .7": Tversky("binary", 0.3, 0.7),
    "Focal Tversky .75": FocalTversky("binary"),
    "Lovasz, 512 levels": Lovasz("binary", bins=512),
}
REAL = {"MSE": MSE(), "MAE": MAE(), "Huber, delta 1": Huber(), "log-cosh": LogCosh()}


def curves(term: torch.nn.Module, vary_foreground: bool, levels: torch.Tensor) -> tuple[list[float], list[float]]:
    """Value, and summed gradient at the logits of the pixels that vary, while the others stay at p = 0.8 or 0.05."""
    target = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    target[:, : int(SIDE * SHARE)] = 1
    varied = target.bool() if vary_foreground else ~target.bool()
    values, slopes = [], []
    for p in levels:
        fixed = torch.tensor(0.05 if vary_foreground else 0.8)
        logits = torch.where(varied, p.logit(), fixed.logit()).unsqueeze(1).requires_grad_()
        value = term(logits, target)
        value.backward()
        values.append(value.item())
        slopes.append(abs(float(logits.grad[varied.unsqueeze(1)].sum())))
    return values, slopes


def segmentation() -> None:
    """Value and gradient against p, of the foreground above and of the background below."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained", sharex=True)
    levels = torch.linspace(0.002, 0.998, 150, dtype=torch.float64)
    for row, (foreground, what) in enumerate([(True, "foreground"), (False, "background")]):
        for name, term in TERMS.items():
            values, slopes = curves(term, foreground, levels)
            axes[row, 0].plot(levels, values, label=name)
            axes[row, 1].plot(levels, slopes, label=name)
        other = "background at p = 0.05" if foreground else "foreground at p = 0.8"
        axes[row, 0].set(ylabel="loss", ylim=(0, 1.5), title=f"all {what} pixels at p, {other}")
        axes[row, 1].set(ylabel="|gradient|, summed over these pixels' logits", yscale="log", ylim=(1e-4, 2))
        axes[row, 1].set_title("the gradient that they get together")
    for axis in axes[1]:
        axis.set_xlabel("p of these pixels")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    figure.savefig(FOLDER / "losses.png", dpi=110)


def regression() -> None:
    """Value and gradient against the error."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    error = torch.linspace(-3, 3, 241, dtype=torch.float64)
    for name, term in REAL.items():
        x = error.clone().requires_grad_()
        each = torch.stack([term(e.view(1, 1, 1, 1), torch.zeros(1, 1, 1)) for e in x])
        (slope,) = torch.autograd.grad(each.sum(), x)
        axes[0].plot(error, each.detach(), label=name)
        axes[1].plot(error, slope, label=name)
    axes[0].set(xlabel="error", ylabel="loss", ylim=(0, 4))
    axes[1].set(xlabel="error", ylabel="gradient")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(FOLDER / "losses_regression.png", dpi=110)


if __name__ == "__main__":
    segmentation()
    regression()
