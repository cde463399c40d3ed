"""Files that are written whole or not at all: a run that is killed leaves no half of one."""

from __future__ import annotations

import os
from pathlib import Path


class replacing:  # noqa: N801 - reads as a verb in a with statement
    """Give a temporary path beside `path`, and move it there only when the block succeeded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.partial")

    def __enter__(self) -> Path:
        return self.partial

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            os.replace(self.partial, self.path)
        else:
            self.partial.unlink(missing_ok=True)
