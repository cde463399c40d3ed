"""The runs below a folder, and the scenario keys that tell them apart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from fl_sim.records import REPORT_FILE, RESULTS_FILE, Results
from fl_sim.report import formats

ABSENT = "–"
"""Stands for a key that a run's scenario does not have."""


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes
    ----------
    folder : Path
        Where it lies.
    path : str
        The same, relative to the sweep's folder, with forward slashes.
    results : Results or None
        None where there are none that can be read.
    problem : str
        Why the run has no (complete) results, in one sentence; "" for a complete run.
    """

    folder: Path
    path: str
    results: Results | None
    problem: str = ""

    @cached_property
    def keys(self) -> dict[str, str]:
        """The scenario's dotted keys and their values as text, in the scenario's order."""
        return flatten(self.results.scenario) if self.results else {}

    @cached_property
    def remark(self) -> str:
        """What its attacks said most often, which is what stood in the way of more; or ""."""
        rows = self.results.attacks if self.results else []
        told = Counter(row.message for row in rows if row.message).most_common(1)
        if not told:
            return ""
        message, times = told[0]
        return message if times == len(rows) else f"{times} of {len(rows)} attacks: {message}"

    @property
    def link(self) -> str:
        """The run's report as a relative address, "" without results."""
        return quote(f"{self.path}/{REPORT_FILE}") if self.results else ""

    @property
    def status(self) -> str:
        """The status of the results, "unreadable" or "missing"."""
        if self.results:
            return self.results.status
        return "unreadable" if (self.folder / RESULTS_FILE).exists() else "missing"


@dataclass(frozen=True)
class Axis:
    """A swept key and its values in order, numbers ascending, words as they first came."""

    key: str
    values: list[str] = field(default_factory=list)


def find_runs(root: Path) -> list[Run]:
    """Return the runs at any depth below a folder, in the order of their paths.

    A run is a folder with `results.json`, or one in which Hydra began a job that left none.
    """
    root = Path(root)
    folders = {path.parent for path in root.rglob(RESULTS_FILE)}
    folders |= {path.parent.parent for path in root.rglob(".hydra/overrides.yaml")}
    return [_load(folder, root) for folder in sorted(folders)]


def _load(folder: Path, root: Path) -> Run:
    path = folder.relative_to(root).as_posix()
    if not (folder / RESULTS_FILE).exists():
        return Run(folder, path, None, f"It left no {RESULTS_FILE}.")
    try:
        results = Results.load(folder)
    except (OSError, ValueError, AttributeError) as error:
        return Run(folder, path, None, str(error).replace(f"{folder}/", ""))
    unfinished = "The run is still going on or was killed."
    problem = {"complete": "", "running": unfinished}.get(
        results.status, results.message or f"The run ended as {results.status}."
    )
    return Run(folder, path, results, problem)


def flatten(scenario: Mapping[str, Any]) -> dict[str, str]:
    """Return a scenario's dotted keys with their values as text.

    The defences, a mapping from name to object, also appear as one value under `defense`.
    """
    flat = dict(_leaves(scenario, ""))
    if isinstance(scenario.get("defense"), Mapping):
        flat["defense"] = " + ".join(map(str, scenario["defense"])) or "none"
    return flat


def _leaves(value: Any, key: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from _leaves(below, f"{key}.{name}" if key else str(name))
    else:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        yield key, text


def swept_axes(runs: list[Run]) -> list[Axis]:
    """Return the keys whose values differ between the runs; `seed` comes last.

    Left out are `sweep.*`, class names and everything else that a group's `name` decides: a key
    that has one value for each name says nothing that the name does not say.
    """
    known = [run.keys for run in runs if run.results]
    names = list(dict.fromkeys(key for keys in known for key in keys))
    swept = [key for key in names if _differs(key, known) and not _implied(key, known)]
    swept.sort(key=lambda key: key == "seed")
    return [Axis(key, _ordered([keys[key] for keys in known if key in keys])) for key in swept]


def _differs(key: str, known: list[dict[str, str]]) -> bool:
    """Tell whether the runs that have a key disagree about it."""
    return len({keys[key] for keys in known if key in keys}) > 1


def _implied(key: str, known: list[dict[str, str]]) -> bool:
    """Tell whether a key is the business of resuming, or follows from its group's name."""
    group, _, rest = key.partition(".")
    if group == "sweep":
        return True
    name = group if group == "defense" else f"{group}.name"
    if not rest or key == name or not _differs(name, known):
        return rest.endswith("_target_") and any(name in keys for keys in known)
    pairs = {(keys.get(name), keys[key]) for keys in known if key in keys}
    return len(pairs) == len({first for first, _ in pairs})


def place(axis: Axis, run: Run) -> int:
    """Return which of an axis' values a run has, one beyond the last where it has none."""
    return axis.values.index(run.keys[axis.key]) if axis.key in run.keys else len(axis.values)


def _ordered(values: list[str]) -> list[str]:
    distinct = list(dict.fromkeys(values))
    try:
        return sorted(distinct, key=float)
    except ValueError:
        return distinct


def shared_keys(runs: list[Run], axes: list[Axis]) -> str:
    """Return, as YAML, the keys that have the same value in every run."""
    known = [run.keys for run in runs if run.results]
    swept = {axis.key for axis in axes}
    same = {
        key: value
        for key, value in (known[0] if known else {}).items()
        if key not in swept and all(keys.get(key) == value for keys in known)
    }
    return yaml.safe_dump(same, sort_keys=False, allow_unicode=True) if same else ""


def in_words(axes: list[Axis]) -> str:
    """Return "clients.count (2, 4) and model.activation (relu, tanh)".

    Beyond four axes, those below another one are counted only.
    """
    below = [a for a in axes if any(a.key.startswith(f"{b.key}.") for b in axes)]
    below = below if len(axes) > 4 else []
    shown = [
        f"{axis.key} ({', '.join(axis.values[:8])}{', …' if len(axis.values) > 8 else ''})"
        for axis in axes
        if axis not in below
    ]
    shown += [formats.plural(len(below), "setting of these", "settings of these")] if below else []
    return formats.listing(shown) if shown else ""
