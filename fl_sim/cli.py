"""The command line: `fl-sim` runs one scenario, `fl-sim -m` a sweep.

Exit status: 0 the scenario ran; 1 a failure; 2 a bad override; 130 stopped by the user. A failure
is one plain sentence on stderr; HYDRA_FULL_ERROR=1 shows the whole traceback.
"""

from __future__ import annotations

import logging
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
from fl_sim.sweep import finished_before, job_folder, name_sweep

FAILED, BAD_OVERRIDE, STOPPED = 1, 2, 130


def config_folder() -> Path:
    """Return where conf/ lies: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside, beside = package / "conf", package.parent / "conf"
    return inside if inside.is_dir() else beside


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    argv = sys.argv[1:] if arguments is None else arguments
    sys.argv = [sys.argv[0], *argv]
    sys.exit(run(argv))


def run(argv: list[str]) -> int:
    """Run the command line and return its exit status."""
    traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of Hydra's own exit
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    register()
    name_sweep(argv)
    OmegaConf.register_new_resolver("fl_sim.job_folder", job_folder, replace=True)
    statuses: list[int] = []

    def job(config: ScenarioConfig) -> None:
        statuses.append(run_job(config))

    try:
        hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")(
            job
        )()
    except KeyboardInterrupt:
        return _fail("Stopped by the user; what was finished is kept.", STOPPED)
    except (ScenarioError, HydraException, OmegaConfBaseException) as error:
        if traceback:
            raise
        return _fail(plain_sentence(error), BAD_OVERRIDE)
    except RunError as error:
        if traceback:
            raise
        return _fail(f"The run failed: {error}", FAILED)
    return max(statuses, default=0)


def run_job(config: ScenarioConfig) -> int:
    """Run one job of a single run or of a sweep.

    Returns
    -------
    int
        0, or 1 for a job of a sweep that failed: the others go on. A single run raises instead.
    """
    quiet_libraries()
    from fl_sim.display import Display
    from fl_sim.records import Results
    from fl_sim.scenario import plain, run_scenario
    from fl_sim.sweep import SweepCallback

    context = HydraConfig.get()
    folder = Path(context.runtime.output_dir)
    if context.mode != RunMode.MULTIRUN:
        run_scenario(config, folder, Display())
        return 0
    title = f"{SweepCallback.next_title()} {' '.join(context.overrides.task)}:"
    display = Display(brief=True, title=title)
    if config.sweep.resume and (results := finished_before(folder, plain(config))) is not None:
        display.skipped(results)
        return 0
    try:
        run_scenario(config, folder, display)
    except ScenarioError as error:
        Results(plain(config), status="failed", message=str(error)).save(folder)
        return _fail(f"{title} {error}", FAILED)
    except RunError as error:
        return _fail(f"{title} {error}", FAILED)
    return 0


def plain_sentence(error: Exception) -> str:
    """Boil an error of Hydra or omegaconf down to what the user has to change."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith(("full_key:", "object_type="))]
    if "Config search path:" in lines:
        lines = lines[: lines.index("Config search path:")]
    heads = [i for i, line in enumerate(lines) if line.startswith("Available options in")]
    if heads:
        options = ", ".join(lines[heads[0] + 1 :])
        lines = [*lines[: heads[0]], f"{lines[heads[0]]} {options}"]
    return ". ".join(line.rstrip(".") for line in lines) + "."


def quiet_libraries() -> None:
    """Keep other libraries' progress lines off the terminal; warnings stay."""
    flower = logging.getLogger("flwr")
    flower.handlers.clear()
    flower.setLevel(logging.ERROR)
    flower.propagate = False


def _fail(sentence: str, status: int) -> int:
    print(f"fl-sim: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
