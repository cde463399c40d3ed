"""All samples at once: least squares on both layers' gradients.

The search finds samples one by one, each in the presence of the others' errors, from the first
layer's gradient alone. Together they have to satisfy

    G~ = sum_i (s'(W x_i) o U delta_i) x_i'   and   dL/dA = sum_i delta_i s(W x_i)',

and the least-squares solution of both is the maximum-likelihood estimate under white noise. The
second equation is what fixes x where s is nearly quadratic and the first hardly does. Gauss-Newton
from the search's result, with conjugate gradients and no matrices larger than the gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.tensor.activation import Activation
from attacks.tensor.subspace import GradientSpace, LayerGradient

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Batch:
    """A whole batch in the coordinates of the row space.

    Attributes
    ----------
    points : Tensor of shape (n, B)
        The samples.
    delta : Tensor of shape (n, K)
        Their error vectors, in absolute scale.
    residual : float
        Relative misfit of the gradient.
    """

    points: Tensor
    delta: Tensor
    residual: float


@dataclass(frozen=True)
class Observation:
    """Both layers' gradients, and what is needed to predict them.

    Attributes
    ----------
    gradient : Tensor of shape (m, B)
        First layer's, in the coordinates of its row space.
    outgoing_gradient : Tensor of shape (C, m)
        Second layer's, weighted by `weight`.
    U : Tensor of shape (m, K)
        Orthonormal basis of the second layer's transposed weight in the delta space.
    to_delta : Tensor of shape (C, K)
        Turns coordinates with respect to U into errors, weighted likewise.
    W : Tensor of shape (m, B)
        First layer's weights in the coordinates of the row space.
    last : Tensor of shape (B,), optional
        Samples satisfy ``last @ x == 1``.
    activation : Activation
        Between the layers.
    """

    gradient: Tensor
    outgoing_gradient: Tensor
    U: Tensor
    to_delta: Tensor
    W: Tensor
    last: Tensor | None
    activation: Activation

    def misfit(self, points: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Observed minus predicted gradients.

        Parameters
        ----------
        points : Tensor of shape (n, B)
            The samples.
        delta : Tensor of shape (n, K)
            Their error vectors, in absolute scale.

        Returns
        -------
        Tensor of shape (m, B), Tensor of shape (C, m)
            Of the first layer and of the second, the latter weighted.
        """
        z = points @ self.W.T
        D = self.activation.slope(z)[0] * (delta @ self.U.T)
        h = self.activation.function(z).detach()
        predicted = (delta @ self.to_delta.T).T @ h
        return self.gradient - D.T @ points, self.outgoing_gradient - predicted


def observe(layer: LayerGradient, space: GradientSpace, activation: Activation) -> Observation:
    """Collect both gradients, the second weighted so that its rounding noise equals the first's.

    Parameters
    ----------
    layer, space : LayerGradient, GradientSpace
        Of the gradient, with `GradientSpace.open` zero.
    activation : Activation
        Between the layers.

    Returns
    -------
    Observation
    """
    weight = float(layer.gradient.square().mean() / layer.outgoing_gradient.square().mean()) ** 0.5
    return Observation(
        gradient=space.Q * space.S,
        outgoing_gradient=layer.outgoing_gradient * weight,
        U=space.U,
        to_delta=space.to_delta * weight,
        W=layer.weight @ space.V,
        last=space.last,
        activation=activation,
    )


def polish(
    seen: Observation,
    points: Tensor,
    delta: Tensor,
    goal: float,
    *,
    steps: int = 8,
    inner: int = 200,
) -> Batch:
    """Improve a complete reconstruction.

    Parameters
    ----------
    seen : Observation
        The gradients.
    points, delta : Tensor of shape (n, B) and (n, K)
        Where to begin.
    goal : float
        Relative misfit that is noise, and good enough.
    steps : int, default 8
        Most Gauss-Newton steps; stops when they no longer help.
    inner : int, default 200
        Most conjugate gradient iterations per step.

    Returns
    -------
    Batch
        No worse than the beginning.
    """
    best = _measure(seen, points, delta)
    for _ in range(steps):
        if best.residual <= goal:
            break
        move = _gauss_newton(seen, best, inner)
        tried = [
            _measure(seen, best.points + h * move[0], best.delta + h * move[1]) for h in (1.0, 0.3)
        ]
        ahead = min(tried, key=lambda batch: batch.residual)
        if not ahead.residual < 0.99 * best.residual:
            break
        best = ahead
    return best


def _measure(seen: Observation, points: Tensor, delta: Tensor) -> Batch:
    size = _dot2(seen.gradient, seen.outgoing_gradient)
    misfit = float(_dot2(*seen.misfit(points, delta)) / size) ** 0.5
    return Batch(points, delta, misfit if misfit == misfit else float("inf"))


def _dot2(a: Tensor, b: Tensor) -> Tensor:
    return a.square().sum() + b.square().sum()


def _gauss_newton(seen: Observation, batch: Batch, inner: int) -> Pair:
    """Least-squares step in (points, delta), with every unknown scaled to unit sensitivity."""
    X, delta, W, U = batch.points, batch.delta, seen.W, seen.U
    z = X @ W.T
    first, second = seen.activation.slope(z)
    h = seen.activation.function(z).detach()
    outgoing = delta @ seen.to_delta.T  # (n, C)
    error = delta @ U.T
    D, tangent = first * error, second * error  # (n, m)
    across = None if seen.last is None else seen.last / seen.last.norm()

    def flat(dX: Tensor) -> Tensor:
        return dX if across is None else dX - (dX @ across)[:, None] * across

    per_weight = float(W.norm()) / W.numel() ** 0.5
    reach = tangent.norm(dim=1) * X.norm(dim=1)
    reach = reach + first.norm(dim=1) * outgoing.norm(dim=1)
    size_x = (D.norm(dim=1) + reach * per_weight).clamp_min(1e-300)[:, None]
    size_d = first.norm(dim=1) * X.norm(dim=1) / len(W) ** 0.5
    size_d = (size_d + h.norm(dim=1) * seen.to_delta.norm() / U.shape[1] ** 0.5)[:, None]
    size_d = size_d.clamp_min(1e-300)

    def forward(p: Pair) -> Pair:
        dX, dd = flat(p[0] / size_x), p[1] / size_d
        dz = dX @ W.T
        change = tangent * dz + first * (dd @ U.T)
        return (
            change.T @ X + D.T @ dX,
            (dd @ seen.to_delta.T).T @ h + outgoing.T @ (first * dz),
        )

    def adjoint(E: Pair) -> Pair:
        t = X @ E[0].T
        dz = tangent * t + first * (outgoing @ E[1])
        dX = flat(dz @ W + D @ E[0]) / size_x
        return dX, ((first * t) @ U + (h @ E[1].T) @ seen.to_delta) / size_d

    dX, dd = _least_squares(forward, adjoint, seen.misfit(X, delta), inner)
    return flat(dX / size_x), dd / size_d


def _least_squares(
    forward: Callable[[Pair], Pair],
    adjoint: Callable[[Pair], Pair],
    rhs: Pair,
    iterations: int,
) -> Pair:
    """Conjugate gradients for least squares (CGLS) between pairs of tensors."""
    residual = rhs
    g = adjoint(residual)
    x = (torch.zeros_like(g[0]), torch.zeros_like(g[1]))
    p, gamma = g, _dot2(*g)
    start = gamma
    for _ in range(iterations):
        q = forward(p)
        alpha = gamma / _dot2(*q).clamp_min(1e-300)
        x = (x[0] + alpha * p[0], x[1] + alpha * p[1])
        residual = (residual[0] - alpha * q[0], residual[1] - alpha * q[1])
        g = adjoint(residual)
        fresh = _dot2(*g)
        if bool(fresh <= 1e-16 * start):
            break
        p = (g[0] + fresh / gamma * p[0], g[1] + fresh / gamma * p[1])
        gamma = fresh
    return x
