"""The command as users have it, each run in a process of its own: versions, paths, sweeps."""

import json
import re
import subprocess
import sys
from importlib.metadata import version

import pytest

from fl_sim import __version__
from fl_sim.cli import asks_for_version
from tests.fl_sim.command import TINY, run

MOODY = """
from torch import nn

class Moody(nn.Module):
    def __init__(self, mood):
        super().__init__()
        self.mood = mood
        self.last = nn.Linear(784, 10)

    def forward(self, x):
        if self.mood == "bad":
            raise RuntimeError("The lion is out.")
        return {"logits": self.last(x.flatten(1)), "mood": self.mood}
"""


@pytest.mark.parametrize("name", ["fl-sim", "fl-sim-report"])
def test_the_version_is_our_own(tmp_path, name):
    told = run(tmp_path, "--version", name=name)
    assert (told.returncode, told.stdout, told.stderr) == (0, f"{name} {__version__}\n", "")
    assert __version__ == version("fl-sim")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "asks"),
    [("--version", True), ("--vers", True), ("--v", True), ("--", False), ("-v", False),
     ("--versions", False), ("version=--version", False)],
)  # fmt: skip
def test_the_version_is_asked_for_as_argparse_allows(argument, asks):
    assert asks_for_version(argument) == asks


def test_a_sweep_with_jobs_that_fail_does_the_others_and_says_so(tmp_path):
    (tmp_path / "mynets.py").write_text(MOODY)
    own = ["model._target_=mynets.Moody", "+model.mood=good,bad"]
    tiny = [override for override in TINY if not override.startswith("model.")]
    done = run(tmp_path, "-m", *tiny, *own, "seed=0,1", "sweep.name=own")
    assert done.returncode == 1
    told = "fails on inputs of shape (2, 1, 28, 28): RuntimeError: The lion is out.\n"
    assert done.stderr.count(told) == done.stderr.count("\n") == 2
    assert re.findall(r"^(?:fl-sim: )?(\[\d/4\])", done.stdout, re.MULTILINE) == ["[1/4]", "[2/4]"]
    folder = tmp_path / "multirun/own"
    ends = [json.loads(path.read_text()) for path in folder.glob("*/results.json")]
    assert sorted(end["status"] for end in ends) == ["complete"] * 2 + ["failed"] * 2
    page = (folder / "sweep.html").read_text()
    assert "2 of 4 runs did not complete." in page
    assert "The lion is out." in page

    job = next(folder.glob("*mood=good*seed=0*"))  # its name has commas and equals signs
    told = run(tmp_path, job.relative_to(tmp_path), name="fl-sim-report")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout == f"{job.relative_to(tmp_path) / 'report.html'}\n"

    into = f"hydra.run.dir={job.relative_to(tmp_path)}/again"
    assert run(tmp_path, *TINY, into).returncode == 0
    assert (job / "again/results.json").is_file()


def test_a_glob_over_choices_is_a_sweep_over_them(tmp_path):
    done = run(tmp_path, "-m", "model=glob(*,exclude=[v*,r*])", "rounds=0")
    assert done.returncode == 1
    assert done.stdout.startswith("Sweep of 3 jobs in multirun/")
    for number, model in enumerate(("convnet", "lenet", "mlp"), 1):
        told = f"[{number}/3] model={model} rounds=0: rounds=0 must be at least 1."
        assert f"fl-sim: {told}\n" in done.stderr
    assert "Warning" not in done.stderr


def test_a_glob_that_matches_nothing_is_a_sentence(tmp_path):
    done = run(tmp_path, "-m", "clients.lr=glob(*)")
    told = "fl-sim: The sweep has no job, for what its glob(...) asks for matches no choice.\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_a_glob_in_a_case_is_known(tmp_path):
    cases = "hydra.sweeper.cases=['model=glob(m*) rounds=0']"
    done = run(tmp_path, "-m", "hydra/sweeper=cases", cases)
    assert done.stdout.startswith("Sweep of 1 job ")
    assert "model=mlp rounds=0: rounds=0 must be at least 1." in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_page_that_cannot_be_written_is_a_sentence_and_status_one(tmp_path):
    (tmp_path / "multirun/x/sweep.html").mkdir(parents=True)
    done = run(tmp_path, "-m", *TINY, "seed=0", "sweep.name=x")
    assert done.returncode == 1
    assert done.stderr.startswith("fl-sim: The sweep's page could not be written: IsADirectory")
    assert done.stderr.count("\n") == 1
    assert "No update was attacked." in done.stdout


UNREADABLE = [
    (["sweep.name=a=1"], "sweep.name=a=1 cannot be read", """type 'sweep.name="a=1"'."""),
    (["data.root=[a"], "data.root=[a cannot be read", """type 'data.root="[a"'."""),
    (["seed=1,2"], "seed=1,2 has several values: add -m", "seed=[1,2] for a list"),
    (["seed"], "The override 'seed' is not of the form KEY=VALUE.", ""),
    (["-m", "seed=0,1", "sweep.name=../x"], "sweep.name=../x has to be a name below", ""),
    (["data=image_folder", "data.root=a=1,b=2/x"], "data.root=a=1,b=2/x is not a folder.", ""),
    (["hydra.run.dir=" + "x" * 300], "The output folder cannot be written: ", "too long"),
]


@pytest.mark.parametrize(("arguments", "told", "remedy"), UNREADABLE)
def test_what_cannot_be_read_is_told_with_a_remedy(tmp_path, arguments, told, remedy):
    done = run(tmp_path, *arguments)
    assert done.returncode == (1 if "folder cannot" in told else 2)
    assert done.stderr.startswith(f"fl-sim: {told}")
    assert remedy in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import sys, warnings
import torch
from torch.func import jvp
if sys.argv[1] == "quiet":
    from fl_sim.quiet import quiet_libraries
    quiet_libraries()
jvp(torch.sin, (torch.ones(1),), (torch.ones(1),))
warnings.warn("`torch.jit.script` of mine is deprecated.", FutureWarning)
"""


def test_only_pytorchs_warning_of_its_own_scripts_is_hidden():
    told = {
        mode: subprocess.run(
            [sys.executable, "-W", "always", "-c", SCRIPT, mode], capture_output=True, text=True
        ).stderr
        for mode in ("loud", "quiet")
    }
    assert "of mine is deprecated" in told["loud"]
    assert "of mine is deprecated" in told["quiet"]
    assert "`torch.jit.script` is" not in told["quiet"]
