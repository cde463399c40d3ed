"""Names of files and folders in sentences: unprintable characters escaped, long lists cut short."""

from __future__ import annotations

from collections.abc import Sequence

MOST_NAMES = 3
"""Names of a list that a sentence spells out."""


def printable(name: object) -> str:
    """Return a name with each character that is not printable as its escape.

    A file name can hold control characters that a terminal obeys, and bytes that are no text.
    """
    return "".join(c if c.isprintable() else _escape(c) for c in str(name))


def some(names: Sequence[object]) -> str:
    """Return the first few names, and how many more there are: "a, b, c and 4 more"."""
    shown = ", ".join(printable(name) for name in names[:MOST_NAMES])
    more = len(names) - MOST_NAMES
    return f"{shown} and {more:,} more" if more > 0 else shown


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
