"""The folder of a single run: a command that was refused leaves none behind that it made."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class RunFolder(Callback):
    """Remembers which folders a run will make, before Hydra makes them."""

    made: tuple[Path, ...] = ()
    """The run's folder and those above it that were not there, innermost first."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Look which folders are missing."""
        folder = Path(config.hydra.run.dir).resolve()
        type(self).made = tuple(p for p in (folder, *folder.parents) if _missing(p))

    @classmethod
    def remove(cls) -> None:
        """Remove what was made, unless anything but Hydra's record of the command is in it."""
        if not cls.made or not cls.made[0].is_dir():
            return
        record = cls.made[0] / ".hydra"
        if any(path != record for path in cls.made[0].iterdir()):
            return
        shutil.rmtree(record, ignore_errors=True)
        for folder in cls.made:
            if any(folder.iterdir()):
                return
            folder.rmdir()


def _missing(path: Path) -> bool:
    """Tell whether there is no such folder; one that cannot be asked about is none of ours."""
    try:
        return not path.exists()
    except OSError:
        return False
