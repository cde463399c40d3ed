"""The rows of `results.json`, typed. Everything that shows results reads these and nothing else.

A `Results` is written after every round, atomically, so that a killed run keeps what it has; its
`status` says how the run ended. `Gallery` is the pictures beside it: `reconstructions.npz`.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import fmean, median
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fl_sim.atomic import replacing

SCHEMA = 1
RESULTS_FILE = "results.json"
GALLERY_FILE = "reconstructions.npz"
REPORT_FILE = "report.html"

EXACT = 0.01
"""A true sample counts as recovered when it is matched with at most this relative error."""


@dataclass
class AttackRow:
    """What one attack on one client's reply in one round achieved.

    Lists run over the true samples of the batch, with None where nothing was matched.

    Attributes
    ----------
    status : str
        "ok"; "timeout" (stopped at `attack.timeout`; what was found until then still counts);
        "interrupted" (by the user; likewise); "attack_failed"; "not_applicable" (the attack
        cannot read this model); "invalid_update" (NaN, wrong shapes or names); "client_failed"
        (no update arrived).
    message : str
        Why, where status is not "ok" or the attack gives a reason for finding little.
    recovered : int
        True samples matched with relative error at most `EXACT`.
    certified : int
        Reconstructions the attack vouches for.
    features_certified : int
        Inner layers' inputs the attack vouches for, where these need not be functions of one
        sample: then what it returns as the samples are estimates.
    false_certificates : int
        Certified reconstructions that are no true sample (relative error above `EXACT`, or
        unmatched).
    label_accuracy : float or None
        Share of the true samples whose match carries the right label; None without labels.
    client : int
        Which one; -1 stands for the sum over `clients`.
    clients : list of int
        Whose updates were attacked in one, where it was not that of `client` alone.
    psnr, ssim, relative_error : list of float or None
        PSNR in dB and SSIM in the data's [0, 1] range; ||x - x'|| / ||x|| in the model's input
        space.
    info : dict
        The attack's own diagnostics, as plain JSON values.
    """

    round: int
    client: int
    attack: str
    status: str = "ok"
    message: str = ""
    batch_size: int | None = None
    estimated_batch_size: int | None = None
    recovered: int = 0
    certified: int = 0
    features_certified: int = 0
    false_certificates: int = 0
    label_accuracy: float | None = None
    psnr: list[float | None] = field(default_factory=list)
    ssim: list[float | None] = field(default_factory=list)
    relative_error: list[float | None] = field(default_factory=list)
    seconds: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)
    clients: list[int] = field(default_factory=list)

    @property
    def subject(self) -> str:
        """Whose update it was: "client 3", or "4 clients"."""
        return f"{len(self.clients)} clients" if self.clients else f"client {self.client}"

    @property
    def images(self) -> int:
        """True images the attack had time for: one that the user stopped does not hide any."""
        return self.recovered if self.status == "interrupted" else self.batch_size or 0


@dataclass
class TrainingRow:
    """Global test loss and accuracy after a round (round 0: the initial model).

    Attributes
    ----------
    loss : float or None
        None where it is no finite number, as after steps that were too long.
    epsilon : float or None
        The largest privacy budget any client has spent by then; None where no defence has one.
    asked, answered : int
        Clients that were sent the model in this round, and those that sent a usable update back.
    failures : dict from str to str
        The others, by number, and why.
    tested : int or None
        Test images behind loss and accuracy.
    """

    round: int
    loss: float | None
    accuracy: float
    epsilon: float | None = None
    asked: int = 0
    answered: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    tested: int | None = None


@dataclass
class Results:
    """One run: its scenario, its rows, how it ended.

    Attributes
    ----------
    scenario : dict
        The resolved configuration, as plain JSON values.
    status : str
        "running", "complete", "interrupted" or "failed".
    message : str
        Why, where the status is "failed" or "interrupted".
    data_notes : list of str
        Sentences of the data source: how files were read and what of them was left out.
    """

    scenario: dict[str, Any]
    attacks: list[AttackRow] = field(default_factory=list)
    training: list[TrainingRow] = field(default_factory=list)
    status: str = "running"
    message: str = ""
    wall_seconds: float = 0.0
    data_notes: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Totals over the rows: sums of counts, medians over the images, worst relative error."""
        rows = self.attacks
        labels = [r.label_accuracy for r in rows if r.label_accuracy is not None]
        totals: dict[str, Any] = {
            "attacks": len(rows),
            "failures": sum(r.status != "ok" for r in rows),
            "batch_size": sum(r.batch_size or 0 for r in rows),
            "estimated_batch_size": sum(r.estimated_batch_size or 0 for r in rows),
        }
        for name in ("recovered", "certified", "false_certificates"):
            totals[name] = sum(getattr(r, name) for r in rows)
        totals["label_accuracy"] = fmean(labels) if labels else None
        for name in ("psnr", "ssim", "relative_error"):
            values = [v for r in rows for v in getattr(r, name) if v is not None]
            totals[name] = median(values) if values else None
        errors = [v for r in rows for v in r.relative_error if v is not None]
        totals["max_relative_error"] = max(errors, default=None)
        totals["seconds"] = sum(r.seconds for r in rows)
        totals["loss"] = self.training[-1].loss if self.training else None
        totals["accuracy"] = self.training[-1].accuracy if self.training else None
        totals["epsilon"] = self.training[-1].epsilon if self.training else None
        totals["wall_seconds"] = self.wall_seconds
        return totals

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `results.json`; numbers JSON cannot hold become None."""
        content = {
            "schema": SCHEMA,
            "status": self.status,
            "message": self.message,
            "scenario": self.scenario,
            "data_notes": self.data_notes,
            "attacks": [asdict(r) for r in self.attacks],
            "training": [asdict(r) for r in self.training],
            "summary": self.summary(),
        }
        plain: dict[str, Any] = _plain(content)
        return plain

    def save(self, folder: Path) -> Path:
        """Write `results.json` into a folder, in one atomic step."""
        path = Path(folder) / RESULTS_FILE
        with replacing(path) as partial:
            partial.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")
        return path

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `results.json` back.

        Raises
        ------
        ValueError
            If the file is not valid JSON or of another schema; the message names it.
        """
        path = Path(folder) / RESULTS_FILE
        try:
            content = json.loads(path.read_text())
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']} is not {SCHEMA}")
            return cls(
                scenario=content["scenario"],
                attacks=[AttackRow(**_known(AttackRow, row)) for row in content["attacks"]],
                training=[TrainingRow(**_known(TrainingRow, row)) for row in content["training"]],
                status=content.get("status", "complete"),
                message=content.get("message", ""),
                wall_seconds=content["summary"]["wall_seconds"],
                data_notes=content.get("data_notes", []),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a readable results file: {error}.") from error


@dataclass
class Gallery:
    """Truth, reconstruction and matching of every attacked batch, one entry per true sample.

    Attributes
    ----------
    row : int array of shape (N,)
        Index into `Results.attacks`.
    truth, reconstruction : float32 arrays of shape (N, C, H, W), in [0, 1]
        NaN in `reconstruction` where nothing was matched.
    truth_label, label : int arrays of shape (N,)
        -1 where there is none.
    certified : bool array of shape (N,)
        Whether the matched reconstruction is certified.
    extra, extra_row, extra_certified : arrays of shape (M, C, H, W), (M,) and (M,)
        Reconstructions that matched nothing.
    """

    row: NDArray[np.int64]
    truth: NDArray[np.float32]
    reconstruction: NDArray[np.float32]
    truth_label: NDArray[np.int64]
    label: NDArray[np.int64]
    certified: NDArray[np.bool_]
    extra: NDArray[np.float32]
    extra_row: NDArray[np.int64]
    extra_certified: NDArray[np.bool_]

    @classmethod
    def empty(cls, image_shape: tuple[int, int, int] = (1, 1, 1)) -> Self:
        """Return a gallery of no images."""
        none = np.zeros(0, np.int64)
        images = np.zeros((0, *image_shape), np.float32)
        flags = np.zeros(0, bool)
        return cls(none, images, images, none, none, flags, images, none, flags)

    def __add__(self, other: Gallery) -> Gallery:
        """Return both galleries in one; an empty one takes the other's image shape."""
        if not len(self.row) and not len(self.extra_row):
            return other
        if not len(other.row) and not len(other.extra_row):
            return self
        return Gallery(
            **{
                f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)])
                for f in fields(self)
            }
        )

    def save(self, folder: Path) -> Path:
        """Write `reconstructions.npz` into a folder, in one atomic step."""
        path = Path(folder) / GALLERY_FILE
        with replacing(path) as partial, partial.open("wb") as stream:
            np.savez_compressed(stream, **{f.name: getattr(self, f.name) for f in fields(self)})
        return path

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `reconstructions.npz` back."""
        with np.load(Path(folder) / GALLERY_FILE) as content:
            return cls(**{f.name: content[f.name] for f in fields(cls)})


def _known(record: type, row: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(record)}
    return {k: v for k, v in row.items() if k in names}


def _plain(value: Any) -> Any:
    """Turn a value into what JSON can hold: NaN and infinities become None, the rest text."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str | None) else str(value)
