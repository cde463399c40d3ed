"""Maximum likelihood for a whole batch: the model's own gradient closest to a noisy one.

Once labels are known nothing but the inputs is open: the errors delta are what the forward pass
makes them, softmax(f(x)) - e_y. So the inputs of a batch are the least-squares solution of

    observed gradient = gradient of the mean loss at (x_1 .. x_n) + noise

over every parameter of the model, each tensor in units of its own noise, and with entries a client
did not send left out. Levenberg-Marquardt with conjugate gradients through the model's forward and
backward pass; a step that does not lower the misfit is not taken. The first layer is a plain
product ``D' X``, whatever follows, so the same code works in the full input space and, at a tiny
part of the cost, in the coordinates of the gradient's row space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp

from attacks.reading.private import private_copy
from attacks.tensor.layers import LinearPair
from attacks.tensor.linear_algebra import conjugate_gradients

PATIENCE = 9
"""Steps in a row that do not lower the misfit before the ascent ends; each is ten times shorter."""

Tensors = dict[str, Tensor]
Pull = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


class Given(nn.Module):
    """Stands in for a layer whose output is given."""

    def __init__(self) -> None:
        super().__init__()
        self.value: Tensor
        self.register_buffer("value", torch.zeros(0))

    def forward(self, _: Tensor) -> Tensor:
        """Return what was given, whatever comes in."""
        return self.value


@dataclass(frozen=True)
class Tail:
    """A model behind its first layer, as a function of that layer's output.

    Attributes
    ----------
    model : nn.Module
        Private float64 copy with a `Given` in the first layer's place.
    hidden : str
        The first layer's name.
    shape : tuple of int
        Of one model input.
    """

    model: nn.Module
    hidden: str
    shape: tuple[int, ...]

    def parameters(self) -> Tensors:
        """All parameters but the first layer's."""
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def output(self, z: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """Model output (n, C) for the first layer's output (n, m).

        Parameters
        ----------
        z : Tensor of shape (n, m)
            The first layer's output.
        parameters : mapping from name to Tensor
            Those of the rest of the model, as `parameters` has them.

        Returns
        -------
        Tensor of shape (n, C)
            Differentiable by both.
        """
        unused = z.new_zeros(len(z), *self.shape)
        state = {**parameters, f"{self.hidden}.value": z}
        return functional_call(self.model, state, (unused,)).reshape(len(z), -1)


def tail_of(model: nn.Module, pair: LinearPair, shape: tuple[int, ...]) -> Tail | None:
    """Cut a model behind its first layer.

    None if the input reaches the output another way too, or if the model cannot be differentiated
    twice.

    Parameters
    ----------
    model : nn.Module
        Left as it was found.
    pair : LinearPair
        Its first layer is the one to cut behind.
    shape : tuple of int
        Of one model input.

    Returns
    -------
    Tail or None
    """
    whole = private_copy(model).eval().double()
    tail = Tail(private_copy(whole).eval(), pair.hidden, shape)
    owner, _, name = pair.hidden.rpartition(".")
    setattr(tail.model.get_submodule(owner), name, Given())
    layer = whole.get_submodule(pair.hidden)
    probe = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probe = probe.to(next(whole.parameters()).device)
    with torch.no_grad():
        straight = whole(probe).reshape(2, -1)
        cut = tail.output(layer(probe.flatten(1)), tail.parameters())
    if not torch.allclose(straight, cut, rtol=1e-9, atol=1e-12):
        return None

    def pulled(z: Tensor) -> Tensor:
        return grad(lambda at: tail.output(at, tail.parameters()).square().sum())(z)

    z = layer(probe.flatten(1)).detach()
    try:
        moved, back = jvp(pulled, (z,), (z,))[1], vjp(pulled, z)[1](z)[0]
    except RuntimeError:  # an operation without a second derivative
        return None
    return tail if bool(torch.isfinite(moved + back).all()) else None


@dataclass(frozen=True)
class Likelihood:
    """Gaussian likelihood of a batch of n inputs under cross entropy.

    Attributes
    ----------
    tail : Tail
        The model.
    weight : Tensor of shape (m, k)
        First layer's weights, bias included, in the coordinates of the inputs.
    first : Tensor of shape (m, k)
        Its observed gradient, likewise.
    first_precision : Tensor broadcastable to (m, k)
        One over the noise's standard deviation; zero for entries that are not known.
    others : dict from parameter name to Tensor
        The other parameters' observed gradients.
    other_precisions : dict from parameter name to Tensor
        As `first_precision`.
    targets : Tensor of shape (n, C)
        Label distributions.
    shares : Tensor of shape (n,)
        What each input's loss counts in the gradient.
    last : Tensor of shape (k,), optional
        Inputs keep ``last @ x == 1``.
    """

    tail: Tail
    weight: Tensor
    first: Tensor
    first_precision: Tensor
    others: Tensors
    other_precisions: Tensors
    targets: Tensor
    shares: Tensor
    last: Tensor | None

    def gradients(self, X: Tensor) -> tuple[Tensor, Tensors]:
        """(D, other gradients) at inputs X of shape (n, k); the first layer's gradient is D' X."""

        def loss(z: Tensor, parameters: Tensors) -> Tensor:
            logs = torch.log_softmax(self.tail.output(z, parameters), 1)
            return -(self.shares[:, None] * self.targets * logs).sum()

        D, others = grad(loss, argnums=(0, 1))(X @ self.weight.T, self.tail.parameters())
        return D, {name: others[name] for name in self.others}

    def misfit(self, X: Tensor) -> tuple[Tensor, ...]:
        """Predicted minus observed gradients, whitened: the first layer's, then the others'."""
        D, others = self.gradients(X)
        rest = ((others[k] - v) * self.other_precisions[k] for k, v in self.others.items())
        return (D.T @ X - self.first) * self.first_precision, *rest

    def flat(self, dX: Tensor) -> Tensor:
        """The part of a change that keeps the bias' coordinate."""
        if self.last is None:
            return dX
        return dX - (dX @ self.last)[:, None] * self.last / (self.last @ self.last)


@dataclass(frozen=True)
class Fit:
    """Where the ascent of the likelihood ended.

    Attributes
    ----------
    inputs : Tensor of shape (n, k)
        In the likelihood's coordinates.
    misfit : float
        Sum of squares of the whitened misfit.
    steps : int
        Steps that lowered it.
    """

    inputs: Tensor
    misfit: float
    steps: int


def ascend(
    likelihood: Likelihood,
    X: Tensor,
    *,
    steps: int = 12,
    inner: int = 20,
    enough: float = 1e-4,
    goal: float = 0.0,
) -> Fit:
    """Levenberg-Marquardt from given inputs; never worse than where it began.

    Parameters
    ----------
    likelihood : Likelihood
        What is maximised.
    X : Tensor of shape (n, k)
        Where to begin.
    steps : int, default 12
        Most steps, counting those not taken.
    inner : int, default 20
        Most conjugate gradient iterations per step.
    enough : float, default 1e-4
        Relative decrease of the misfit that is not worth another step.
    goal : float, default 0
        Misfit (sum of squares) to stop at.

    Returns
    -------
    Fit
        With inputs of shape (n, k).
    """
    error, pull = _linearised(likelihood, X)
    best, taken, damping, failures = _square(error), 0, 1e-3, 0
    for _ in range(steps):
        if best <= goal or failures == PATIENCE:
            break
        ahead = X + _step(likelihood, X, pull(error)[0], pull, damping, inner)
        error_ahead, pull_ahead = _linearised(likelihood, ahead)
        value = _square(error_ahead)
        if not value < best:
            damping, failures = damping * 10, failures + 1
            continue
        gain = 1 - value / best
        X, error, pull, best = ahead, error_ahead, pull_ahead, value
        taken, failures, damping = taken + 1, 0, damping / 6
        if gain < enough:
            break
    return Fit(X, best, taken)


def _linearised(likelihood: Likelihood, X: Tensor) -> tuple[tuple[Tensor, ...], Pull]:
    value, pull = vjp(likelihood.misfit, X)[:2]
    return value, pull


def _square(parts: tuple[Tensor, ...]) -> float:
    total = float(sum(part.square().sum() for part in parts))
    return total if total == total else float("inf")


def _step(
    likelihood: Likelihood, X: Tensor, slope: Tensor, pull: Pull, damping: float, inner: int
) -> Tensor:
    """Damped Gauss-Newton step, in variables Y = L'X in which D'D = LL' is the identity."""
    D = likelihood.gradients(X)[0]
    weighed = D * _row_precision(likelihood.first_precision, D.shape[1])
    metric = weighed @ weighed.T
    metric = metric + 1e-9 * metric.diagonal().mean() * torch.eye(len(metric)).to(metric)
    L, failed = torch.linalg.cholesky_ex(metric)
    if int(failed):
        return torch.zeros_like(X)

    def out(Y: Tensor) -> Tensor:
        return likelihood.flat(torch.linalg.solve_triangular(L.T, Y, upper=True))

    def back(dX: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(L, likelihood.flat(dX), upper=False)

    def normal(y: Tensor) -> Tensor:
        Y = y.reshape(X.shape)
        moved = jvp(likelihood.misfit, (X,), (out(Y),))[1]
        return (back(pull(moved)[0]) + damping * Y).reshape(1, -1)

    tolerance = X.new_full((1,), 1e-3)
    return out(
        conjugate_gradients(normal, -back(slope).reshape(1, -1), inner, tolerance).reshape(X.shape)
    )


def _row_precision(precision: Tensor, m: int) -> Tensor:
    """Typical precision of each row of the first layer's gradient, shape (m,)."""
    if precision.dim() < 2 or precision.shape[0] == 1:
        return precision.square().mean().sqrt().expand(m)
    return precision.square().mean(1).sqrt()
