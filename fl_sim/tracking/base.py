"""What a run tells a tracker, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from fl_sim.records import AttackRow, Gallery, Results, TrainingRow


class TrackerError(RuntimeError):
    """The tracker cannot do its work; the message says why and what to do, in one sentence."""


class Tracker(Protocol):
    """Told of a run as it goes: once `start`, then rows in any order, once `finish`."""

    def start(self, scenario: dict[str, Any], folder: Path) -> None:
        """Begin a run.

        Parameters
        ----------
        scenario : dict
            The resolved configuration, as plain JSON values.
        folder : Path
            The run's folder; whatever the tracker writes goes in there.
        """

    def log_training(self, row: TrainingRow) -> None:
        """Take the global model's state after a round."""

    def log_attack(self, row: AttackRow, gallery: Gallery) -> None:
        """Take what one attack achieved.

        Parameters
        ----------
        row : AttackRow
            Its lists run over the true samples of the batch.
        gallery : Gallery
            The images of this attack only, in the order of the row's lists.
        """

    def finish(self, results: Results) -> None:
        """End the run, however it went; does nothing if `start` failed."""
