"""What `fl-sim` does behind its door: Hydra reads the overrides, jobs run, errors are told."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fl_sim.config import ScenarioConfig, register
from fl_sim.errors import RunError, ScenarioError
from fl_sim.folders import RunFolder
from fl_sim.interrupts import INTERRUPTS, STOPPED
from fl_sim.naming import asks_for_sweep, name_sweep, own_folder
from fl_sim.quiet import quiet_libraries
from fl_sim.sweep import SweepCallback, finished_before, job_title
from fl_sim.wording import plain_sentence, quoted

FAILED, BAD_OVERRIDE = 1, 2

TRACEBACK = "FL_SIM_TRACEBACK"
"""Environment variable that lets errors through as they are."""


def run_command(arguments: list[str], conf: Path) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments : list of str
        As typed.
    conf : Path
        The folder of Hydra's groups.
    """
    sweeping = any(map(asks_for_sweep, arguments))
    argv = [quoted(argument, sweeping) for argument in arguments]
    sys.argv = [sys.argv[0], *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of Hydra's own exit
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    register()
    OmegaConf.register_new_resolver("fl_sim.job_folder", own_folder, replace=True)
    SweepCallback.failed, SweepCallback.folder, RunFolder.made = False, None, ()
    INTERRUPTS.undo = RunFolder.remove
    statuses: list[int] = []  # stays empty where other processes run the jobs of a sweep

    def job(config: ScenarioConfig) -> None:
        statuses.append(run_job(config))

    try:
        name_sweep(argv)
        start = hydra.main(version_base="1.3", config_path=str(conf), config_name="config")
        start(job)()
    except KeyboardInterrupt:
        SweepCallback.stopped()
        return _fail("Stopped by the user; what was finished is kept.", STOPPED)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if os.environ.get(TRACEBACK):
            raise
        return _fail(plain_sentence(error), BAD_OVERRIDE)
    except OSError as error:
        if os.environ.get(TRACEBACK) or error.filename is None:  # not about a file: a closed pipe
            raise
        return _fail(f"The output folder cannot be written: {error}", FAILED)
    status = max([*statuses, FAILED * SweepCallback.failed])
    if status:
        RunFolder.remove()
    return status


def run_job(config: ScenarioConfig) -> int:
    """Run one job, a single run or one of a sweep, and return its exit status.

    A failing job of a sweep is recorded in its folder, and the others go on.
    """
    quiet_libraries()
    from fl_sim.check import as_scenario_error
    from fl_sim.display import Display
    from fl_sim.models.own import settled
    from fl_sim.records import RESULTS_FILE, Results
    from fl_sim.report.verdict import shortfall
    from fl_sim.scenario import in_words, plain, run_scenario

    INTERRUPTS.loaded()
    if INTERRUPTS.pressed:  # in the job before, where something else failed because of it
        raise KeyboardInterrupt
    context = HydraConfig.get()
    folder = Path(context.runtime.output_dir)
    sweeping = context.mode == RunMode.MULTIRUN
    title = ""
    if sweeping:
        title = f"{job_title(context.job.num)} {' '.join(context.overrides.task)}: "
    display = Display(brief=sweeping, title=title)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where a model or an attack of the user's may lie
    try:
        if sweeping and config.sweep.resume:
            with as_scenario_error():
                settings = plain(settled(config))
            if done := finished_before(folder, settings):
                display.skipped(done)
                return 0
        results = run_scenario(config, folder, display)
    except KeyboardInterrupt:
        if sweeping and not (folder / RESULTS_FILE).exists():  # stopped before it began
            stopped = Results(plain(config), status="interrupted", message="Stopped by the user.")
            stopped.save(folder)
        raise
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        bad_override = isinstance(error, ScenarioError)
        told = str(error) if bad_override else in_words(error)
        sentence = told if bad_override else f"The run failed: {told}"
        if sweeping and not isinstance(error, RunError):  # nothing ran that could have written it
            Results(plain(config), status="failed", message=told).save(folder)
        return _fail(title + sentence, BAD_OVERRIDE if bad_override and not sweeping else FAILED)
    if told := shortfall(results):
        return _fail(title + told, FAILED)
    return 0


def _fail(sentence: str, status: int) -> int:
    print(f"fl-sim: {sentence}", file=sys.stderr)
    return status
