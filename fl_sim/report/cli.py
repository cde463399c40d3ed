"""`fl-sim-report DIR`: the report of a run, or of all runs below a folder.

Exit status: 0 the report was written; 2 there is nothing to report; 130 stopped by the user.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fl_sim import __version__
from fl_sim.interrupts import STOPPED, Interrupts

BAD_ARGUMENT = 2

INTERRUPTS = Interrupts("fl-sim-report")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status.

    Parameters
    ----------
    arguments : list of str, optional
        By default those of the process, which then is this command's alone.
    """
    if arguments is None:
        INTERRUPTS.install()
        sys.exit(run())
    with INTERRUPTS.installed():
        sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="fl-sim-report",
        description="Write the report of a run (report.html), or of a whole sweep (sweep.html and "
        "sweep.csv) with the reports of its runs.",
    )
    parser.add_argument("--version", action="version", version=f"fl-sim-report {__version__}")
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of a run or of a sweep")
    folder = parser.parse_args(arguments).folder
    if not folder.is_dir():
        return _fail(f"{folder} is not a folder.")

    from fl_sim.records import RESULTS_FILE
    from fl_sim.report.page import write_report
    from fl_sim.report.sweep import write_sweep_report

    INTERRUPTS.loaded()
    try:
        single = (folder / RESULTS_FILE).exists()
        print(write_report(folder) if single else write_sweep_report(folder))
    except KeyboardInterrupt:
        print("fl-sim-report: Stopped by the user.", file=sys.stderr)
        return STOPPED
    except (OSError, ValueError) as error:
        return _fail(str(error))
    return 0


def _fail(sentence: str) -> int:
    print(f"fl-sim-report: {sentence}", file=sys.stderr)
    return BAD_ARGUMENT


if __name__ == "__main__":
    main()
