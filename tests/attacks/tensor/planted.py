"""A planted batch behind one hidden layer: gradient, columns and samples all known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.tensor.activation import Activation, probe
from attacks.tensor.equation import SampleEquation
from attacks.tensor.subspace import GradientSpace, LayerGradient, gradient_space


@dataclass(frozen=True)
class Planted:
    """Ground truth in float64."""

    samples: Tensor  # (B, d + 1)
    errors: Tensor  # (B, C)
    columns: Tensor  # (B, m)
    layer: LayerGradient
    space: GradientSpace
    activation: Activation

    @property
    def points(self) -> Tensor:
        return self.samples @ self.space.V

    @property
    def equation(self) -> SampleEquation:
        return self.equation_with(centred=False)

    def equation_with(self, *, centred: bool) -> SampleEquation:
        weight = self.layer.weight @ self.space.V
        return SampleEquation(self.space.Q, self.space.U, weight, self.space.last, centred=centred)


def plant(
    function, *, batch=6, size=20, width=200, classes=5, seed=0, noise=0.0, alike=None
) -> Planted:
    """Draw a layer pair and a batch, and build the gradients from their formulas.

    With `alike` the second sample and its error differ from the first by that share only.
    """
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    activation = probe(function)
    samples = torch.cat([normal(batch, size), torch.ones(batch, 1, dtype=torch.float64)], 1)
    weight, outgoing = normal(width, size + 1) / size**0.5, normal(classes, width) / width**0.5
    errors = normal(batch, classes)
    errors = (errors - errors.mean(1, keepdim=True)) / batch
    if alike is not None:
        samples[1, :-1] = samples[0, :-1] + alike * samples[1, :-1]
        errors[1] = errors[0] + alike * errors[1]
    z = samples @ weight.T
    columns = activation.slope(z)[0] * (errors @ outgoing)
    gradient = columns.T @ samples
    gradient = gradient + noise * gradient.norm() / gradient.numel() ** 0.5 * normal(
        *gradient.shape
    )
    layer = LayerGradient(
        weight, gradient, outgoing, errors.T @ function(z).detach(), True, 2.0**-53
    )
    return Planted(samples, errors, columns, layer, gradient_space(layer), activation)
