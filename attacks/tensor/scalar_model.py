"""A pair of layers as the founding paper's model: one output, weights of unit variance.

Real networks have several outputs, biases, and small weights. Here they are brought to the form
f(x) = sum_j a_j s(w_j . x) with w_j ~ N(0, I), and directions found there are turned back into
inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import NotApplicable
from attacks.tensor.subspace import LayerGradient

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ScalarModel:
    """A pair of layers as the paper's model sees it: unit-variance weights, scalar output.

    Biases with a spread of their own are one more coordinate, in which every input is `bias_std`.

    Attributes
    ----------
    points : Tensor of shape (m, n)
        Weights w_j divided by their standard deviation.
    hidden : Tensor of shape (m, n)
        sum_i r_i s'(w_j . x_i) x_i.
    outgoing : Tensor of shape (m,)
        sum_i r_i s(w_j . x_i).
    bias_gradient : Tensor of shape (m,), optional
        sum_i r_i s'(w_j . x_i).
    weight_std, std : float
        Standard deviations of the weights and of the pre-activations.
    norm : float
        Typical norm of an input; 1 where nothing is known.
    features : int
        d.
    precision : float
        Unit roundoff of the arrived gradient.
    """

    points: Tensor
    hidden: Tensor
    outgoing: Tensor
    bias_gradient: Tensor | None
    weight_std: float
    std: float
    norm: float
    features: int
    precision: float

    def orient(self, function: Function, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scales, signs and residuals of directions by linear least squares.

        With biases, dL/db = sum_i D_i and dL/dW = sum_i c_i D_i u_i' give every 1/c_i. Without,
        inputs have unit norm, and dL/da is regressed on s(w . u_i) and s(-w . u_i); the larger
        coefficient names the sign, which an odd activation leaves open.

        Parameters
        ----------
        function : callable
            s.
        directions : Tensor of shape (B, n)
            Unit vectors u_i.

        Returns
        -------
        inputs : Tensor of shape (B, d)
        residuals : Tensor of shape (B,)
            r_i, from regressing dL/da on s(w . x_i).
        fit : Tensor of shape ()
            Relative misfit of that regression.
        """
        along = self.points @ directions.T  # (m, B)
        if self.bias_gradient is not None:
            columns = self.hidden @ torch.linalg.pinv(directions)
            inverse = torch.linalg.pinv(columns) @ self.bias_gradient
            size = 1 / inverse.abs().clamp(1 / (3 * self.std), 3 / self.std)
            scale = torch.where(inverse < 0, -size, size)
        else:
            both = torch.cat(
                [function(self.weight_std * along), function(-self.weight_std * along)], 1
            )
            plus, minus = (torch.linalg.pinv(both) @ self.outgoing).abs().chunk(2)
            ones = torch.full_like(plus, self.weight_std)
            scale = torch.where(minus > plus * (1 + 1e-6), -ones, ones)
        responses = function(along * scale)
        residuals = torch.linalg.pinv(responses) @ self.outgoing
        misfit = (responses @ residuals - self.outgoing).norm() / self.outgoing.norm()
        inputs = directions[:, : self.features] * (scale / self.weight_std)[:, None]
        return inputs, residuals, misfit


def scalar_model(layer: LayerGradient) -> ScalarModel:
    """Bring a layer's gradient to the paper's form.

    Several outputs are combined into one along the leading direction u of dL/dA: there
    r_i = u . delta_i, and dL/dw_j is weighed by a_j . u to undo the outgoing weights on average.

    Parameters
    ----------
    layer : LayerGradient
        In float64.

    Returns
    -------
    ScalarModel
        With n = d + 1 if there are biases with a spread of their own, otherwise d.

    Raises
    ------
    NotApplicable
        If the outgoing weights vanish along u, or the hidden weights do.
    """
    u = torch.linalg.svd(layer.outgoing_gradient, full_matrices=False)[0][:, 0]
    u = u * torch.where(u[u.abs().argmax()] < 0, -1.0, 1.0)
    scalar = layer.outgoing.T @ u
    power = float(scalar.square().mean())
    if power == 0:
        raise NotApplicable("The outgoing weights vanish, and with them the hidden gradient.")
    field = layer.gradient * (scalar / power)[:, None]
    d = layer.weight.shape[1] - int(layer.biased)
    weight_std = float(layer.weight[:, :d].square().mean().sqrt())
    if weight_std == 0:
        raise NotApplicable("The hidden weights vanish.")
    scale = layer.weight.new_full((d,), weight_std)
    norm, bias, bias_std = 1.0, None, 0.0
    if layer.biased:
        bias = field[:, d]
        raw = float(layer.gradient[:, :d].norm()) / max(float(layer.gradient[:, d].norm()), 1e-300)
        norm = raw if raw > 0 else 1.0
        bias_std = float(layer.weight[:, d].std())
        if bias_std > 1e-3 * weight_std:
            scale = torch.cat([scale, scale.new_full((1,), bias_std)])
    n = len(scale)
    return ScalarModel(
        points=layer.weight[:, :n] / scale,
        hidden=field[:, :n] * scale,
        outgoing=u @ layer.outgoing_gradient,
        bias_gradient=bias,
        weight_std=weight_std,
        std=(weight_std**2 * norm**2 + bias_std**2) ** 0.5,
        norm=norm,
        features=d,
        precision=layer.precision,
    )
