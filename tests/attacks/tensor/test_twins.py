"""One image twice or two much alike: each sample's own column, and the trace two would leave."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from attacks.base import Knowledge, Problem
from attacks.tensor.attack import layer_gradient, readable_pair
from attacks.tensor.subspace import gradient_space
from attacks.tensor.twins import CLEARLY, columns, one_and_the_same


def scene(activation=nn.ReLU, width=256, batch=4, seed=0, bias=True):
    """(problem, pair, layer, inputs, one-hot targets) of a small network in float64."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(12, width, bias=bias),
        activation(),
        nn.Linear(width, 8),
        nn.Tanh(),
        nn.Linear(8, 5),
    ).double()
    inputs, labels = torch.randn(batch, 12, dtype=torch.float64), torch.randint(5, (batch,))
    loss = nn.functional.cross_entropy(model(inputs), labels)
    names = [n for n, _ in model.named_parameters()]
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    gradient = dict(zip(names, slopes, strict=True))
    generator = torch.Generator().manual_seed(0)
    problem = Problem(model, gradient, (12,), "cross_entropy", Knowledge(), generator)
    pair = readable_pair(problem)
    targets = nn.functional.one_hot(labels, 5).double()
    return problem, pair, layer_gradient(problem, pair), inputs, targets


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Hardtanh])
def test_columns_of_all_samples_make_the_first_layers_gradient(activation, bias):
    problem, pair, layer, inputs, targets = scene(activation, bias=bias)
    D = columns(problem.model, pair, layer, inputs, targets) / len(inputs)
    flat = torch.cat([inputs, torch.ones(len(inputs), 1)], 1) if bias else inputs
    assert torch.allclose(D.T @ flat, layer.gradient, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_two_samples_are_told_from_one_unless_noise_covers_their_trace(seed):
    problem, pair, layer, inputs, targets = scene(seed=seed)
    space = gradient_space(layer)
    shares = torch.full((len(inputs),), 2 / len(inputs), dtype=torch.float64)

    def told(noise):
        generator = torch.Generator().manual_seed(seed)
        return one_and_the_same(
            problem.model,
            pair,
            layer,
            replace(space, noise=noise),
            inputs,
            targets,
            shares,
            generator,
        )

    assert told(1e-12).all()
    assert not told(1e-2).any()


def test_columns_that_differ_in_length_alone_leave_no_trace():
    """Two classes and gates that never change: samples add up to one, however far apart."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.Hardtanh(), nn.Linear(64, 2)).double()
    inputs, labels = 0.1 * torch.randn(3, 6, dtype=torch.float64), torch.tensor([0, 1, 1])
    loss = nn.functional.cross_entropy(model(inputs), labels)
    names = [n for n, _ in model.named_parameters()]
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    gradient = dict(zip(names, slopes, strict=True))
    generator = torch.Generator().manual_seed(0)
    problem = Problem(model, gradient, (6,), "cross_entropy", Knowledge(), generator)
    pair = readable_pair(problem)
    layer = layer_gradient(problem, pair)
    space = replace(gradient_space(layer), noise=1e-14 / CLEARLY)
    shares = torch.full((3,), 1 / 3, dtype=torch.float64)
    targets = nn.functional.one_hot(labels, 2).double()
    assert not one_and_the_same(model, pair, layer, space, inputs, targets, shares, generator).any()
