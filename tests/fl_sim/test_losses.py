"""Scenarios of every loss: clients train by it, the server reads through it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from fl_sim.config import LossName
from fl_sim.losses import LOSSES, binary_cross_entropy, negative_log_likelihood, predicted

SMALL = (
    "rounds=1", "clients.count=1", "clients.per_round=1", "clients.batch_size=4",
    "data.samples_per_client=8", "data.test_samples=20", "tracker=none", "hydra.run.dir=run",
)  # fmt: skip

OWN = """
import torch
from torch import nn

class Likely(nn.Sequential):
    def __init__(self, num_classes=10):
        super().__init__(
            nn.Flatten(), nn.LazyLinear(256), nn.GELU(),
            nn.Linear(256, num_classes), nn.LogSoftmax(1),
        )
"""


def fl_sim(folder, *overrides):
    """Exit status, output and results of a run of the real command."""
    command = [sys.executable, "-m", "fl_sim", *SMALL, *overrides]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    file = folder / "run" / "results.json"
    results = json.loads(file.read_text()) if file.exists() else None
    return done.returncode, done.stdout + done.stderr, results


def test_every_loss_has_a_name_in_the_configuration():
    assert {str(name) for name in LossName} == set(LOSSES)


def test_losses_take_indices_or_probabilities():
    torch.manual_seed(0)
    output, y = torch.randn(5, 3).log_softmax(1), torch.tensor([0, 2, 1, 1, 0])
    soft = torch.nn.functional.one_hot(y, 3).float()
    torch.testing.assert_close(
        negative_log_likelihood(output, y), negative_log_likelihood(output, soft)
    )
    one = torch.randn(5, 1)
    two = torch.nn.functional.one_hot(y.clamp_max(1), 2).float()
    torch.testing.assert_close(
        binary_cross_entropy(one, two),
        torch.nn.functional.binary_cross_entropy_with_logits(one, two[:, 1:]),
    )
    assert predicted(torch.tensor([[-1.0], [2.0]])).tolist() == [0, 1]
    assert predicted(torch.tensor([[-1.0, 3.0], [2.0, 1.0]])).tolist() == [1, 0]


@pytest.mark.slow
def test_binary_cross_entropy_is_read_exactly_with_its_labels(tmp_path):
    status, told, results = fl_sim(tmp_path, "loss=bce_with_logits")
    assert status == 0, told
    (row,) = results["attacks"]
    assert (row["recovered"], row["false_certificates"]) == (4, 0)
    assert row["label_accuracy"] == 1


@pytest.mark.slow
def test_a_likelihood_is_read_exactly_and_needs_log_probabilities(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    status, told, _ = fl_sim(tmp_path, "loss=nll")
    assert status != 0
    assert "no log-probabilities, which loss=nll takes" in " ".join(told.split())
    status, told, results = fl_sim(tmp_path, "loss=nll", "model._target_=mine.Likely")
    assert status == 0, told
    (row,) = results["attacks"]
    assert (row["recovered"], row["certified"], row["label_accuracy"]) == (4, 4, 1)
