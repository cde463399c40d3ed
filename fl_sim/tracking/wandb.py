"""Weights & Biases: scalars and pictures per round, offline unless asked otherwise.

Offline, the run lies in the run folder under wandb/; `wandb leet` shows it in the terminal and
`wandb sync` sends it to a server. No network connection is attempted then.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

from fl_sim.naming import FOLDER_VARIABLE
from fl_sim.records import AttackRow, Gallery, Results, TrainingRow
from fl_sim.tracking.base import TrackerError
from fl_sim.tracking.rounds import Round

Mode = Literal["offline", "online", "disabled"]

MOST_IMAGES = 108
"""W&B drops images beyond this many in one list."""

QUIET: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "disable_job_creation": True,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}
"""Settings that keep W&B to the rows it is given; those a release does not know are left out."""


class WandbTracker:
    """Logs a run to Weights & Biases.

    Parameters
    ----------
    project : str, default "fl-sim"
    mode : "offline", "online" or "disabled", default "offline"
        Online needs a key (`wandb login`).
    entity : str, optional
        User or team on the server.
    group : str, optional
        By default the name of the sweep the run belongs to, if any.
    name : str, optional
        By default the name of the run's folder.
    tags : sequence of str, optional
        By default data, model, attack and defences of the scenario.
    images : int, default 32
        Pairs logged per round, shared out over its attacks; at most 108.

    Raises
    ------
    ValueError
        If the mode is unknown or the number of images out of range.
    """

    def __init__(
        self,
        project: str = "fl-sim",
        mode: Mode = "offline",
        entity: str | None = None,
        group: str | None = None,
        name: str | None = None,
        tags: Sequence[str] | None = None,
        images: int = 32,
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"tracker.mode={mode} is not one of {', '.join(get_args(Mode))}.")
        if not 0 <= images <= MOST_IMAGES:
            raise ValueError(f"tracker.images={images} is not between 0 and {MOST_IMAGES}.")
        self.project = project
        self.mode = mode
        self.entity = entity
        self.group = group
        self.name = name
        self.tags = tags
        self.images = images
        self._run: Any = None
        self._round: Round | None = None

    def start(self, scenario: dict[str, Any], folder: Path) -> None:
        """Open a W&B run inside the folder.

        Raises
        ------
        TrackerError
            If W&B cannot start, e.g. online without a key.
        """
        if self.mode != "online":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
        import wandb

        folder = Path(folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if self.mode == "online" and not _signed_in(wandb):
            raise TrackerError(
                "tracker.mode=online needs a W&B key: run `wandb login` or set WANDB_API_KEY, "
                "or use tracker.mode=offline, which needs none."
            )
        known = {k: v for k, v in QUIET.items() if k in wandb.Settings.model_fields}
        with _one_sentence():
            self._run = wandb.init(
                project=self.project,
                mode=self.mode,
                entity=self.entity,
                group=self.group or sweep_of(folder),
                name=self.name or folder.name,
                tags=list(self.tags) if self.tags is not None else tags_of(scenario),
                job_type="attack" if _name(scenario, "attack") not in {"", "none"} else "training",
                dir=folder,
                config=scenario,
                reinit="finish_previous",
                settings=wandb.Settings(**known),
            )
            self._run.define_metric("round")
            self._run.define_metric("*", step_metric="round")
        self._round = None

    def log_training(self, row: TrainingRow) -> None:
        """Keep a row until its round is over."""
        self._at(row.round).training = row

    def log_attack(self, row: AttackRow, gallery: Gallery) -> None:
        """Keep a row and its images until its round is over."""
        self._at(row.round).attacks.append((row, gallery))

    def finish(self, results: Results) -> None:
        """Log the last round, the table of attacks and the summary, and close the W&B run."""
        if self._run is None:
            return
        totals = {k: v for k, v in results.summary().items() if v is not None}
        ending = {"status": results.status, "message": results.message}
        with _one_sentence():
            try:
                self._flush(_table(results))
                self._run.summary.update({**totals, **ending})
            finally:
                run, self._run = self._run, None
                run.finish(exit_code=0 if results.status == "complete" else 1)

    def _at(self, number: int) -> Round:
        """Return the round with this number; logs the one before it, if that is another."""
        if self._round is None or self._round.number != number:
            self._flush()
            self._round = Round(number)
        return self._round

    def _flush(self, more: dict[str, Any] | None = None) -> None:
        """Log the kept round, if any, as one step, with more values beside it."""
        done, self._round = self._round, None
        if done is None or self._run is None:
            return
        import wandb

        values: dict[str, Any] = {"round": done.number, **done.scalars(), **(more or {})}
        pairs = [wandb.Image(pair, caption=told) for pair, told in done.pairs(self.images)]
        if pairs:
            values["reconstructions"] = pairs
        with _one_sentence():
            self._run.log(values)


def sweep_of(folder: Path) -> str | None:
    """Return the name of the sweep that a run's folder lies in, None for a single run."""
    sweep = os.environ.get(FOLDER_VARIABLE)  # runs inside it form one group
    return sweep if sweep and sweep in Path(folder).resolve().parts else None


def tags_of(scenario: dict[str, Any]) -> list[str]:
    """Return the names of data, model, attack and defences, as W&B tags (64 characters at most)."""
    names = [_name(scenario, group) for group in ("data", "model", "attack")]
    names += [str(name) for name in scenario.get("defense") or {}]
    return list(dict.fromkeys(name[:64] for name in names if name))


def _name(scenario: dict[str, Any], group: str) -> str:
    content = scenario.get(group)
    return str(content.get("name") or "") if isinstance(content, dict) else ""


def _scalar(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    known = [v for v in value if v is not None]
    return median(known) if known else None


def _table(results: Results) -> dict[str, Any]:
    """Return the rows of the attacks as a table of scalars; lists become their medians."""
    if not results.attacks:
        return {}
    import wandb

    columns: list[str | int] = [f.name for f in fields(AttackRow) if f.name != "info"]
    rows = [[_scalar(getattr(row, str(c))) for c in columns] for row in results.attacks]
    return {"attack/table": wandb.Table(columns=columns, data=rows)}


def _signed_in(wandb: Any) -> bool:
    """Tell whether W&B has a key, without asking for one."""
    if "prompt" in inspect.signature(wandb.login).parameters:
        with _one_sentence():
            return bool(wandb.login(prompt=False))
    return bool(wandb.api.api_key)


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Turn W&B's exceptions into a `TrackerError` of one line."""
    import wandb

    try:
        yield
    except (wandb.Error, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise TrackerError(f"W&B cannot log this run: {reason}.") from error
