"""The command line: `fl-sim` runs one scenario, `fl-sim -m` a sweep.

Exit status: 0 the scenario ran; 1 a failure; 2 a bad override; 130 stopped by the user. A failure
is one plain sentence on stderr; FL_SIM_TRACEBACK=1 shows the whole traceback.

This is only the door: it loads next to nothing, so that Ctrl-C is in good hands before
`fl_sim.command` loads everything else.
"""

from __future__ import annotations

import sys

from fl_sim import __version__
from fl_sim.places import config_folder


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status.

    Parameters
    ----------
    arguments : list of str, optional
        By default those of the process, which then is this command's alone.
    """
    try:
        from fl_sim.interrupts import INTERRUPTS

        if arguments is None:
            INTERRUPTS.install()
    except KeyboardInterrupt:
        sys.stderr.write("fl-sim: Stopped by the user before anything ran.\n")
        sys.exit(130)
    if arguments is None:
        sys.exit(run(sys.argv[1:]))
    with INTERRUPTS.installed():
        sys.exit(run(arguments))


def run(argv: list[str]) -> int:
    """Run the command line and return its exit status."""
    if any(asks_for_version(argument) for argument in argv):
        print(f"fl-sim {__version__}")
        return 0
    from fl_sim.command import run_command

    return run_command(argv, config_folder())


def asks_for_version(argument: str) -> bool:
    """Tell whether an argument is --version, shortened as argparse allows or not."""
    return argument.startswith("--v") and "--version".startswith(argument)


if __name__ == "__main__":
    main()
