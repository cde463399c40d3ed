"""Fills the page templates: everything is escaped, style and script are inlined."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fl_sim import __version__
from fl_sim.atomic import replacing
from fl_sim.report import formats, words

FILTERS = ("count", "share", "decibel", "ratio", "error", "seconds", "note", "percent_within",
           "decibel_within", "ratio_within")  # fmt: skip
"""Functions of `formats` that the templates use."""


@cache
def environment() -> Environment:
    """Return the templates' environment, with the number formats as filters."""
    made = Environment(
        loader=PackageLoader("fl_sim.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in FILTERS:
        made.filters[name] = getattr(formats, name)
    made.filters["title_of"] = words.title
    made.globals["plural"] = formats.plural
    return made


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Render a template into a file, in one atomic step, and return its path."""
    page = environment().get_template(template).render(version=__version__, **content)
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path
