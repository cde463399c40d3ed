"""No tracking: the run's own files are all there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fl_sim.records import AttackRow, Gallery, Results, TrainingRow


class NullTracker:
    """Takes everything and keeps nothing."""

    def start(self, scenario: dict[str, Any], folder: Path) -> None:
        """Ignore the beginning."""

    def log_training(self, row: TrainingRow) -> None:
        """Ignore a row."""

    def log_attack(self, row: AttackRow, gallery: Gallery) -> None:
        """Ignore a row and its images."""

    def finish(self, results: Results) -> None:
        """Ignore the end."""
