"""Figures as picture files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text

from rsseg.files import atomic_write


@contextmanager
def plain_text(figure: Figure) -> Iterator[None]:
    """Draw all texts of a figure literally: a $ in a class name would begin a formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with mpl.rc_context({"text.parse_math": False}):  # for the ticks that drawing adds
        yield


def save(figure: Figure, path: Path, **options: Any) -> None:
    """Write a figure; options such as its dpi are those of `Figure.savefig`."""
    with plain_text(figure), atomic_write(path) as part:
        figure.savefig(part, **options)
