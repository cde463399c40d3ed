"""Ctrl-C: whenever it is pressed, and however often, a sentence and status 130."""

import re
import signal
import subprocess
import sys
import time

import pytest

from fl_sim.interrupts import Interrupts
from tests.fl_sim.command import TINY, run

UP = "print('up', flush=True); from {module} import main; main()"
SENTENCES = (
    r"Stopped by the user before anything ran\.",
    r"Stopped by the user; what was finished is kept\.",
    r"Stopped at once; what was not yet written is lost\.",
    r"Stopped by the user\.",
)


def started(folder, *arguments, module="fl_sim.cli", **settings):
    """Start the command; its interpreter is up, and nothing of ours is loaded."""
    process = subprocess.Popen(
        [sys.executable, "-c", UP.format(module=module), *arguments], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings,
    )  # fmt: skip
    assert process.stdout.readline() == "up\n"
    return process


def ended(process):
    """Wait for its end, and return what it wrote to stderr."""
    try:
        return process.communicate(timeout=120)[1]
    finally:
        process.kill()


def told_once(process, command="fl-sim"):
    """Return the sentence of a command that was stopped, after a look at all it said."""
    err = ended(process)
    assert process.returncode == 130, err
    assert re.fullmatch(f"{command}: ({'|'.join(SENTENCES)})\n", err), err
    return err


@pytest.mark.parametrize("presses", [1, 2])
@pytest.mark.parametrize("delay", [0.05, 0.3, 0.8, 1.5, 2.5, 4])
def test_ctrl_c_while_libraries_load_is_a_sentence(tmp_path, delay, presses):
    process = started(tmp_path, *TINY, "rounds=100000")
    time.sleep(delay)
    for _ in range(presses):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    told = told_once(process)
    if "before anything ran" in told:
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("delay", [0.05, 0.5, 1.5])
def test_ctrl_c_stops_a_report_too(tmp_path, delay):
    assert run(tmp_path, *TINY, "hydra.run.dir=done").returncode == 0
    process = started(tmp_path, "done", module="fl_sim.report.cli")
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    err = ended(process)
    assert process.returncode == 130 or (process.returncode, err) == (0, "")  # had it been faster
    assert re.fullmatch(rf"(fl-sim-report: ({'|'.join(SENTENCES)})\n)?", err), err


def test_ctrl_c_in_a_sweep_keeps_what_is_finished(tmp_path):
    process = started(tmp_path, "-m", *TINY, "seed=0,1", "rounds=1,100000", "sweep.name=cut")
    for line in process.stdout:
        if line.startswith("[1/4]"):
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert "what was finished is kept" in told_once(process)
    assert (tmp_path / "multirun/cut/sweep.html").is_file()


def test_a_command_that_is_to_ignore_ctrl_c_goes_on(tmp_path):
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    process = started(tmp_path, *TINY, "hydra.run.dir=done", **ignoring)
    process.send_signal(signal.SIGINT)
    err = ended(process)
    assert (process.returncode, err) == (0, "")


SCRIPT = """
import os, signal, sys, time
from fl_sim.interrupts import Interrupts
interrupts = Interrupts("tool")
interrupts.undo = lambda: os.write(1, b"undone ")
interrupts.install()
presses = int(sys.argv[2])
if sys.argv[1] == "running":
    interrupts.loaded()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
except KeyboardInterrupt:
    os.write(1, b"saving ")
    if presses > 1:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)
    os.write(1, b"saved")
"""

PRESSED = [
    ("loading", 1, 130, "undone ", "tool: Stopped by the user before anything ran.\n"),
    ("running", 1, 0, "saving saved", ""),
    ("running", 2, 130, "saving ", "tool: Stopped at once; what was not yet written is lost.\n"),
]


@pytest.mark.parametrize(("phase", "presses", "status", "out", "err"), PRESSED)
def test_what_ctrl_c_does_depends_on_what_there_is_to_lose(phase, presses, status, out, err):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, phase, str(presses)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, out, err)


def test_a_process_that_goes_on_has_its_own_ctrl_c_back():
    before = signal.getsignal(signal.SIGINT)
    interrupts = Interrupts("tool")
    with interrupts.installed():
        interrupts.loaded()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
