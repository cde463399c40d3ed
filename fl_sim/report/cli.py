"""`fl-sim-report DIR`: the report of a run, or of all runs below a folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fl_sim.records import RESULTS_FILE

BAD_ARGUMENT = 2


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status: 0, or 2 if there is nothing to report."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="fl-sim-report",
        description="Write the report of a run (report.html), or of a whole sweep (sweep.html and "
        "sweep.csv) with the reports of its runs.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of a run or of a sweep")
    folder = parser.parse_args(arguments).folder
    if not folder.is_dir():
        return _fail(f"{folder} is not a folder.")

    from fl_sim.report.page import write_report
    from fl_sim.report.sweep import write_sweep_report

    try:
        single = (folder / RESULTS_FILE).exists()
        print(write_report(folder) if single else write_sweep_report(folder))
    except (OSError, ValueError) as error:
        return _fail(str(error))
    return 0


def _fail(sentence: str) -> int:
    print(f"fl-sim-report: {sentence}", file=sys.stderr)
    return BAD_ARGUMENT


if __name__ == "__main__":
    main()
