"""The page of a report, one HTML file that needs nothing else, and the tables and figures in it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from rsseg.files import write_text


def html_table(table: pd.DataFrame, kinds: pd.DataFrame | None = None, title: str = "") -> str:
    """A table as HTML, its text escaped: numbers rounded, NaN as a dash, line breaks kept; empty for a table without rows.

    `kinds` are the CSS classes of its cells.
    """
    if table.empty:
        return ""
    if not table.index.is_unique:
        table = table.reset_index()
    classes = pd.DataFrame("", index=table.index, columns=table.columns) if kinds is None else kinds
    texts = [name for name in table if kinds is None and not pd.api.types.is_numeric_dtype(table[name])]
    classes[texts] = "text"
    html = table.style.format(precision=3, na_rep="-", thousands="\u202f", escape="html").set_td_classes(classes)
    html.format_index(escape="html", axis=0).format_index(escape="html", axis=1).hide(axis="index", names=True)
    if isinstance(table.index, pd.RangeIndex):
        html.hide(axis="index")
    if not any(table.columns):
        html.hide(axis="columns")
    html.set_table_styles({name: [{"selector": "th", "props": "text-align: left"}] for name in texts})
    html.cell_ids = False
    shown = f"<p><strong>{escape(title)}</strong></p>" if title else ""
    return f'{shown}<div class="scroll">{html.to_html()}</div>'


def html_figure(pictures: Mapping[str, str], name: str, caption: str) -> str:
    """A picture as an HTML figure; `pictures` are data URIs by name. Empty if there is no picture of this name."""
    if name not in pictures:
        return ""
    said = escape(caption)
    return (
        f'<figure id="{name}" class="scroll"><img src="{pictures[name]}" alt="{said}"><figcaption>{said}</figcaption></figure>'
    )


def write_page(path: Path, **content: Any) -> None:
    """Write the page: its `title`, `answer`, `ranking` with a `note`, `figure`, and the other names of ``page.html``.

    Raises:
        UnwritableError: If it can't be written.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    write_text(path, template.render({"statistics": [], "notes": [], "sections": {}, "links": [], **content}))
