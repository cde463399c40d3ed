"""The command as it is installed, run in a process of its own."""

import subprocess
import sys
from pathlib import Path

TINY = ("tracker=none", "attack=none", "model.width=16", "clients.batch_size=2",
        "data.test_samples=10")  # fmt: skip


def command(name="fl-sim"):
    """Return how to start `fl-sim` or `fl-sim-report`."""
    script = Path(sys.executable).parent / name
    module = {"fl-sim": "fl_sim", "fl-sim-report": "fl_sim.report.cli"}[name]
    return [str(script)] if script.exists() else [sys.executable, "-m", module]


def run(folder, *arguments, name="fl-sim", **settings):
    """Run it to its end in a folder: what subprocess.run returns, with text."""
    return subprocess.run(
        [*command(name), *map(str, arguments)], cwd=folder, capture_output=True, text=True,
        timeout=300, **settings,
    )  # fmt: skip
