"""Sweeps: a folder that the command itself names, jobs that are done once, a page at the end.

The folder's name is made from the swept keys, so the same command finds its own results again; a
job whose results are complete and whose scenario is the same is skipped.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.utils import get_class
from omegaconf import DictConfig
from rich.console import Console

from fl_sim.records import RESULTS_FILE, Results
from fl_sim.report.formats import plural
from fl_sim.report.runs import Run, find_runs

FOLDER_VARIABLE = "FL_SIM_SWEEP"
"""Environment variable with the sweep's folder name; workers of other launchers inherit it."""

TOTAL_VARIABLE = "FL_SIM_JOBS"
"""Environment variable with the number of a sweep's jobs, for the same reason."""

LONGEST_NAME = 120


def sweep_folder(overrides: list[str]) -> str:
    """Name a sweep after its command.

    Parameters
    ----------
    overrides : list of str
        As typed: ``["clients.count=2,4", "rounds=3"]``.

    Returns
    -------
    str
        ``sweep.name`` if it is among them; else the experiment's name, the swept keys and a hash
        of all overrides.
    """
    relevant = sorted(o for o in overrides if not o.startswith(("sweep.", "hydra.", "hydra/", "-")))
    for override in overrides:
        if override.startswith("sweep.name=") and override != "sweep.name=null":
            return override.partition("=")[2]
    named = [o.partition("=")[2] for o in relevant if o.startswith("experiment=")]
    swept = [o.partition("=")[0] for o in relevant if "," in o]
    digest = hashlib.sha256("\n".join(relevant).encode()).hexdigest()[:8]
    return _file_name("+".join([*named, *swept, digest]))


def job_folder(overrides: str) -> str:
    """Name a job after its overrides: ``clients.count=2,model.activation=relu``."""
    return _file_name(overrides) or "default"


def _file_name(text: str) -> str:
    """Make a text a file name, shortened with a hash where it is too long."""
    name = re.sub(r"[^\w.,=+\[\]-]+", "_", text)
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def finished_before(folder: Path, scenario: dict[str, Any]) -> Results | None:
    """Return the results of an earlier run of the same scenario, if it was completed.

    Parameters
    ----------
    folder : Path
        The job's folder.
    scenario : dict
        The scenario that is to be run, as plain values.
    """
    if not (folder / RESULTS_FILE).exists():
        return None
    try:
        results = Results.load(folder)
    except ValueError:
        return None  # cut off while it was written, or of an older kind: run it again
    written = Results(scenario).to_dict()["scenario"]  # numbers as keys, NaN: not after JSON
    same = _without_sweep(results.scenario) == _without_sweep(written)
    return results if same and results.status == "complete" else None


def _without_sweep(scenario: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in scenario.items() if key != "sweep"}


def count_jobs(settings: DictConfig) -> int | None:
    """Return how many jobs a sweep will have, None where only its sweeper knows.

    Parameters
    ----------
    settings : DictConfig
        The sweep's `hydra` node.
    """
    kind = get_class(settings.sweeper._target_)
    if not hasattr(kind, BasicSweeper.split_arguments.__name__):
        return None  # not issubclass: Hydra's scan for plugins may load the basic sweeper twice
    sweeper = kind(**{k: v for k, v in settings.sweeper.items() if k != "_target_"})
    typed = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*typed, *settings.overrides.task])
    return sum(len(batch) for batch in sweeper.split_arguments(parsed, None))


def jobs_begun(folder: Path) -> list[Run]:
    """Return the jobs that the last sweep in a folder began, whichever process ran them.

    Hydra writes multirun.yaml when a sweep starts, and a job's overrides.yaml when that job does.
    """
    start = folder / "multirun.yaml"
    since = start.stat().st_mtime_ns if start.exists() else 0

    def begun(run: Run) -> bool:
        mark = run.folder / ".hydra" / "overrides.yaml"
        return mark.exists() and mark.stat().st_mtime_ns >= since

    return [run for run in find_runs(folder) if begun(run)]


def _fell_short(run: Run) -> bool:
    """Tell whether a job did not complete, or measured nothing."""
    from fl_sim.report.verdict import shortfall

    return bool(run.problem or (run.results and shortfall(run.results)))


def job_title(number: int) -> str:
    """Return ``[3/6]`` for the job with number 2, without the total where nobody knows it."""
    total = os.environ.get(TOTAL_VARIABLE)
    return f"[{number + 1}/{total}]" if total else f"[{number + 1}]"


class SweepCallback(Callback):
    """Says what a sweep is about to do, counts its jobs, and builds its page at the end."""

    failed = False
    """Whether any job of the last sweep did not complete."""

    folder: Path | None = None
    """Of the sweep under way."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Count the jobs, where the sweeper is one whose jobs are known beforehand."""
        type(self).folder = Path(config.hydra.sweep.dir)
        total = count_jobs(config.hydra)
        os.environ[TOTAL_VARIABLE] = str(total or "")
        jobs = "jobs" if total is None else plural(total, "job")
        _say(f"Sweep of {jobs} in {config.hydra.sweep.dir}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Build the page over all jobs."""
        from fl_sim.report.sweep import write_sweep_report

        cls, folder = type(self), Path(config.hydra.sweep.dir)
        cls.folder, cls.failed = None, any(_fell_short(run) for run in jobs_begun(folder))
        _say(f"Report: {write_sweep_report(folder)}")

    @classmethod
    def stopped(cls) -> None:
        """Build the page over the jobs there are, if a sweep was under way."""
        from fl_sim.report.sweep import write_sweep_report

        folder, cls.folder = cls.folder, None
        if folder is not None and any(run.results for run in find_runs(folder)):
            _say(f"Report: {write_sweep_report(folder)}")


def _say(line: str) -> None:
    """Print a line as it is."""
    Console(markup=False, emoji=False, highlight=False).print(line, soft_wrap=True)


def name_sweep(arguments: list[str]) -> None:
    """Put the folder name of this command's sweep where conf/config.yaml looks for it."""
    os.environ.pop(FOLDER_VARIABLE, None)
    if {"-m", "--multirun"} & set(arguments):
        os.environ[FOLDER_VARIABLE] = sweep_folder(arguments)
