"""Hooks of the site: the pages of the top folder join it, links between the two lead to pages, and doctests are code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

TOP = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "README.pt.md": "start.pt.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the top folder."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(TOP / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links of the checkout into links of the site."""
    markdown = markdown.replace("](docs/", "](")
    for name, page in PAGES.items():
        markdown = re.sub(rf"\]\((\.\./)?{re.escape(name)}", f"]({page}", markdown)
    return markdown


def without_scripts_of_servers(output: str) -> str:
    """The page without the script that the plugin `offline` would fetch."""
    return re.sub(r'<script src="https://[^"]*"></script>', "", output)


def on_post_page(output: str, **_: Any) -> str:
    """Let a page fetch nothing."""
    return without_scripts_of_servers(output)


def on_post_template(output_content: str, **_: Any) -> str:
    """Let what is no page, such as 404.html, fetch nothing either."""
    return without_scripts_of_servers(output_content)


class Doctests(griffe.Extension):
    """Makes the docstrings' sections ``Example:`` code, as sections ``Examples:`` are."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section of an object."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)


class Dataclasses(griffe.Extension):
    """Gives loss terms, which their base makes dataclasses, the decorator that griffe looks for."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Decorate the terms of a package."""
        terms = pkg["losses.terms"]
        base = terms["base.Term"]
        for room in terms.modules.values():
            for term in room.classes.values():
                if not term.is_alias and term is not base and base in term.mro():
                    term.decorators.extend(base.decorators)
