"""The walls of the house: who may import whom, and what an attack is handed."""

import ast
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from attacks import Knowledge, Problem
from strategies import ServerView

ROOT = Path(__file__).resolve().parent.parent

FORBIDDEN = {
    "attacks": {"strategies", "fl_sim", "flwr", "hydra", "omegaconf", "wandb"},
    "strategies": {"fl_sim", "hydra", "omegaconf", "wandb"},
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_only_downwards(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    crossed = {
        str(path.relative_to(ROOT)): names
        for path in files
        if (names := FORBIDDEN[package].intersection(imported(path)))
    }
    assert not crossed


def test_attacks_load_without_flower_and_hydra():
    script = (
        "import sys, attacks; "
        "print([m for m in ('flwr', 'hydra', 'wandb', 'strategies', 'fl_sim') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert run.stdout.strip() == "[]"


def test_the_types_have_no_place_for_the_truth():
    """What an attack sees is these fields; a new one has to be added here, on purpose."""
    seen = {f.name for f in fields(Problem)}
    assert seen == {"model", "gradient", "input_shape", "loss", "knows", "generator", "local"}
    assert {f.name for f in fields(ServerView)} == seen - {"generator"}
    assert {f.name for f in fields(Knowledge)} == {
        "labels",
        "batch_size",
        "data_range",
        "batchnorm_statistics",
    }
