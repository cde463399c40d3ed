"""Sweeps: jobs that are done once, counted beforehand, and a page at the end.

The same command finds its own results again (`fl_sim.naming`); a job whose results are complete and
whose scenario is the same is skipped.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.utils import get_class
from omegaconf import DictConfig
from rich.console import Console

from fl_sim.naming import job_folder as job_folder
from fl_sim.naming import sweep_folder as sweep_folder
from fl_sim.records import RESULTS_FILE, Results
from fl_sim.report.formats import plural
from fl_sim.report.runs import Run, find_runs

TOTAL_VARIABLE = "FL_SIM_JOBS"
"""Environment variable with the number of a sweep's jobs; workers of other launchers inherit it."""


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
    loader = GlobalHydra.instance().config_loader()  # knows what there is, which glob(*) asks for
    parsed = OverridesParser.create(loader).parse_overrides([*typed, *settings.overrides.task])
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
    """Says what a sweep is about to do, counts its jobs, and builds its page at the end.

    Hydra turns what a callback raises into a warning, and goes on as if nothing had been. So
    nothing is raised here: what fails is said, and counts for the exit status.
    """

    failed = False
    """Whether any job of the last sweep did not complete, or its page could not be written."""

    folder: Path | None = None
    """Of the sweep under way."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Count the jobs, where the sweeper is one whose jobs are known beforehand."""
        type(self).folder = Path(config.hydra.sweep.dir)
        try:
            total = count_jobs(config.hydra)
        except Exception:
            total = None  # the sweeper is about to meet the same error, and to report it
        os.environ[TOTAL_VARIABLE] = "" if total is None else str(total)
        jobs = "jobs" if total is None else plural(total, "job")
        _say(f"Sweep of {jobs} in {config.hydra.sweep.dir}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Build the page over all jobs."""
        cls, folder = type(self), Path(config.hydra.sweep.dir)
        cls.folder = None
        if os.environ[TOTAL_VARIABLE] == "0":
            cls.failed = True
            _tell("The sweep has no job, for what its glob(...) asks for matches no choice.")
            return
        try:
            cls.failed = any(_fell_short(run) for run in jobs_begun(folder))
        except Exception as error:
            cls._lost("It cannot be told how the jobs ended", error)
        cls._page(folder)

    @classmethod
    def stopped(cls) -> None:
        """Build the page over the jobs there are, if a sweep was under way."""
        folder, cls.folder = cls.folder, None
        if folder is not None and any(run.results for run in find_runs(folder)):
            cls._page(folder)

    @classmethod
    def _page(cls, folder: Path) -> None:
        from fl_sim.report.sweep import write_sweep_report

        try:
            _say(f"Report: {write_sweep_report(folder)}")
        except Exception as error:
            cls._lost("The sweep's page could not be written", error)

    @classmethod
    def _lost(cls, what: str, error: Exception) -> None:
        cls.failed = True
        told = " ".join(str(error).split())
        _tell(f"{what}: {type(error).__name__}: {told}")


def _say(line: str) -> None:
    """Print a line as it is."""
    Console(markup=False, emoji=False, highlight=False).print(line, soft_wrap=True)


def _tell(sentence: str) -> None:
    print(f"fl-sim: {sentence}", file=sys.stderr)
