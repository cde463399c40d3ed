"""The command line: `fl-sim` runs one scenario, `fl-sim -m` a sweep.

Exit status: 0 the scenario ran; 1 a failure; 2 a bad override; 130 stopped by the user. A failure
is one plain sentence on stderr; FL_SIM_TRACEBACK=1 shows the whole traceback.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fl_sim.config import ScenarioConfig, config_folder, register
from fl_sim.errors import RunError, ScenarioError
from fl_sim.folders import RunFolder
from fl_sim.sweep import SweepCallback, finished_before, job_folder, job_title, name_sweep

FAILED, BAD_OVERRIDE, STOPPED = 1, 2, 130

OPEN = ("model.", "attack.method.", "strategy.", "data.source.", "backend.", "tracker.")
"""Below these, a class decides which keys there are."""

TRACEBACK = "FL_SIM_TRACEBACK"
"""Environment variable that lets errors through as they are."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    argv = sys.argv[1:] if arguments is None else arguments
    sys.argv = [sys.argv[0], *argv]
    sys.exit(run(argv))


def run(argv: list[str]) -> int:
    """Run the command line and return its exit status."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of Hydra's own exit
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    register()
    name_sweep(argv)
    OmegaConf.register_new_resolver("fl_sim.job_folder", job_folder, replace=True)
    SweepCallback.failed, SweepCallback.folder, RunFolder.made = False, None, ()
    statuses: list[int] = []  # stays empty where other processes run the jobs of a sweep

    def job(config: ScenarioConfig) -> None:
        statuses.append(run_job(config))

    try:
        start = hydra.main(
            version_base="1.3", config_path=str(config_folder()), config_name="config"
        )
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
    from fl_sim.records import Results
    from fl_sim.report.verdict import shortfall
    from fl_sim.scenario import in_words, plain, run_scenario

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


def plain_sentence(error: Exception) -> str:
    """Boil an error of Hydra or omegaconf down to what the user has to change."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("full_key:", "object_type="))]
    if "Config search path:" in lines:
        lines = lines[: lines.index("Config search path:")]
    if unknown := re.match(r"Could not override '(.*)'", lines[0] if lines else ""):
        return unknown_key(unknown[1])
    if scalar := re.match(r"Error merging override ([^\s=]+)=(\S+)", lines[0] if lines else ""):
        key, value = scalar.groups()
        if "is not a ListConfig" in str(error.__cause__):
            return f"{key}={value} has to be a list: write {key}=[{value}]."
    if choice := re.search(r"Could not load '(\w+)/(.*)'", lines[0] if lines else ""):
        return f"{choice[1]} has no {choice[2]!r}; it has {', '.join(choices(choice[1]))}."
    if lines and lines[0].startswith("Error merging override") and error.__cause__ is not None:
        lines = [lines[0].replace("Error merging override ", ""), *_head(error.__cause__)]
    heads = [i for i, line in enumerate(lines) if line.startswith("Available options in")]
    if heads:
        options = ", ".join(lines[heads[0] + 1 :])
        lines = [*lines[: heads[0]], f"{lines[heads[0]]} {options}"]
    return ": ".join(line.rstrip(".:") for line in lines) + "."


def unknown_key(key: str) -> str:
    """Return what to do about a key that is not there."""
    told = f"{key!r} is not a key of this scenario; `fl-sim --help` lists them all."
    if key.startswith("defense.") and (name := key.split(".")[1]) in choices("defense"):
        return f"{key!r} needs a defense={name}, alone or in a list: defense=[{name},...]."
    if key.startswith(OPEN):
        told += f" An argument of a class of your own is added with a plus: +{key}=VALUE."
    return told


def choices(group: str) -> list[str]:
    """Return the names of a group's files."""
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))


def _head(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()][:1]


def quiet_libraries() -> None:
    """Keep other libraries' progress lines off the terminal; warnings stay."""
    import flwr.supercore  # noqa: F401 - sets its handlers up when imported

    flower = logging.getLogger("flwr")
    flower.handlers.clear()
    flower.setLevel(logging.ERROR)
    flower.propagate = False
    logging.getLogger("strategies").setLevel(logging.ERROR)  # what it warns of is in the rows


def _fail(sentence: str, status: int) -> int:
    print(f"fl-sim: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
