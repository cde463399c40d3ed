"""Where the files lie that are no Python; found without loading anything."""

from __future__ import annotations

from pathlib import Path


def config_folder() -> Path:
    """Return where conf/ lies: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside, beside = package / "conf", package.parent / "conf"
    return inside if inside.is_dir() else beside
