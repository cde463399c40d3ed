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


def scene(model, inputs, labels):
    """(problem, pair, layer, one-hot targets) of a network in float64."""
    model = model.double()
    output = model(inputs)
    loss = nn.functional.cross_entropy(output, labels)
    names = [n for n, _ in model.named_parameters()]
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    gradient = dict(zip(names, slopes, strict=True))
    generator = torch.Generator().manual_seed(0)
    shape = inputs.shape[1:]
    problem = Problem(model, gradient, shape, "cross_entropy", Knowledge(), generator)
    pair = readable_pair(problem)
    targets = nn.functional.one_hot(labels, output.shape[1]).double()
    return problem, pair, layer_gradient(problem, pair), targets


def deep(activation=nn.ReLU, seed=0, bias=True):
    """(inputs, what `scene` makes of them) for a three-layer network."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(12, 256, bias=bias), activation(), nn.Linear(256, 8), nn.Tanh(), nn.Linear(8, 5)
    )
    inputs = torch.randn(4, 12, dtype=torch.float64)
    return inputs, scene(model, inputs, torch.randint(5, (4,)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Hardtanh])
def test_columns_of_all_samples_make_the_first_layers_gradient(activation, bias):
    inputs, (problem, pair, layer, targets) = deep(activation, bias=bias)
    D = columns(problem.model, pair, layer, inputs, targets) / len(inputs)
    flat = torch.cat([inputs, torch.ones(len(inputs), 1)], 1) if bias else inputs
    assert torch.allclose(D.T @ flat, layer.gradient, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_two_samples_are_told_from_one_unless_noise_covers_their_trace(seed):
    inputs, (problem, pair, layer, targets) = deep(seed=seed)
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
    model = nn.Sequential(nn.Linear(6, 64), nn.Hardtanh(), nn.Linear(64, 2))
    inputs, labels = 0.1 * torch.randn(3, 6, dtype=torch.float64), torch.tensor([0, 1, 1])
    problem, pair, layer, targets = scene(model, inputs, labels)
    space = replace(gradient_space(layer), noise=1e-14 / CLEARLY)
    shares = torch.full((3,), 1 / 3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    assert not one_and_the_same(
        problem.model, pair, layer, space, inputs, targets, shares, generator
    ).any()
