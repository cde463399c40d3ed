"""A model that the zoo does not hold is attacked like those it holds."""

import json
import sys

import pytest
from torch import nn

from fl_sim.cli import main
from fl_sim.models.activations import make_activation


class Own(nn.Module):
    """A convolution beside a wider one, and a head; written here and nowhere else."""

    def __init__(self, input_shape, num_classes, width, depth, activation, init):
        super().__init__()
        channels, height, side = input_shape
        self.near = nn.Conv2d(channels, 5, 3, stride=2, padding=1)
        self.far = nn.Conv2d(channels, 5, 5, stride=2, padding=2)
        self.act = make_activation(activation)
        self.wide = nn.Linear(5 * ((height + 1) // 2) * ((side + 1) // 2), width)
        self.out = nn.Linear(width, num_classes)

    def forward(self, x):
        y = self.act(self.near(x)) + 0.5 * self.act(self.far(x))
        return self.out(self.act(self.wide(y.flatten(1))))


def test_a_module_of_the_users_is_read_through_the_command_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fl-sim"])
    overrides = {
        "model._target_": f"{__name__}.Own",
        "model.width": 128,
        "attack": "features",
        "tracker": "none",
        "clients.count": 2,
        "clients.per_round": 1,
        "clients.batch_size": 2,
        "hydra.run.dir": "run",
    }
    with pytest.raises(SystemExit) as stopped:
        main([f"{key}={value}" for key, value in overrides.items()])
    assert stopped.value.code == 0, capfd.readouterr().err
    (row,) = json.loads((tmp_path / "run/results.json").read_text())["attacks"]
    assert row["recovered"] == row["certified"] == 2
    assert row["false_certificates"] == 0
    assert row["label_accuracy"] == 1
    assert min(row["psnr"]) > 60
