"""Finding Linear - activation - Linear in modules of many shapes."""

from __future__ import annotations

import torch
from torch import nn

from attacks.tensor.layers import find_linear_pairs


class Handwritten(nn.Module):
    """Functional activation with a branch, reshaping by size."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(10, 20), nn.Linear(20, 5), nn.Linear(5, 3)

    def forward(self, x):
        z = self.a(x.view(x.size(0), -1))
        return self.c(torch.relu(self.b(z * torch.sigmoid(z))))


class Skipping(Handwritten):
    """The first layer's output also goes around the second."""

    def forward(self, x):
        z = torch.relu(self.a(x))
        return self.c(self.b(z) + z[:, :5])


class Untraceable(Handwritten):
    """Control flow on data, so only hooks can follow."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x):
        if x.sum() > 1e9:
            return x
        return self.c(self.act(self.b(self.act(self.a(x)))))


def names(model, shape=None):
    pairs = find_linear_pairs(model, shape)
    return [(p.hidden, p.outgoing, p.at_input, p.at_output) for p in pairs]


def test_sequential_with_dropout():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(10, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 3)
    )
    assert names(model) == [("1", "4", True, True)]
    assert model.training


def test_handwritten_forward():
    assert names(Handwritten()) == [("a", "b", True, False), ("b", "c", False, True)]


def test_untraceable_module():
    assert names(Untraceable()) == [("a", "b", True, False), ("b", "c", False, True)]


def test_skip_connection_is_no_pair():
    assert names(Skipping()) == []


def test_norm_layer_is_no_activation():
    assert names(nn.Sequential(nn.Linear(9, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))) == []


def test_inner_pair_behind_a_convolution():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 20), nn.GELU(), nn.Linear(20, 3)
    )
    assert names(model, (1, 4, 4)) == [("3", "5", False, True)]
