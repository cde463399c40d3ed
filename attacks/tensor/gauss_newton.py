"""Steps towards zeros of the sample equation, for many candidates at a time.

J differentiates the *normalised* residual along x with delta already eliminated: with
T = diag(tangent) W, P = I - QQ', F the freedom of delta, r the residual and v = T' counted,

    J'J = T'PT - (T'F)(T'F)' - (T'r) v' - v (T'r)' + phi^2 v v'.

It is never formed: conjugate gradients multiply by its factors, which all candidates share but for
the tangent. A step that is wrong in its last digits is as good a step, so single precision does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.tensor.equation import SampleEquation, State, Trust, coordinates
from attacks.tensor.linear_algebra import conjugate_gradients

TINY = 1e-30
"""Keeps divisions finite, in float32 too."""


@dataclass(frozen=True)
class NormalEquations:
    """J'J of N candidates, damped; the first axis of every field but Q and W is the candidate.

    Attributes
    ----------
    Q : Tensor of shape (m, B)
        Orthonormal basis of the gradient's column space.
    W : Tensor of shape (m, n)
        First layer's weights along the directions in which a candidate may move.
    tangent : Tensor of shape (N, m)
        How the column moves with the pre-activations.
    along, pull : Tensor of shape (N, n)
        T' counted and T' residual.
    shared : Tensor of shape (N, K - 1, n)
        T' freedom.
    squared : Tensor of shape (N, 1)
        phi^2.
    ridge : Tensor of shape (N, n)
        What the damping adds to the diagonal.
    trust : Trust, optional
        The rows that count; None for all.
    """

    Q: Tensor
    W: Tensor
    tangent: Tensor
    along: Tensor
    pull: Tensor
    shared: Tensor
    squared: Tensor
    ridge: Tensor
    trust: Trust | None

    def __call__(self, p: Tensor) -> Tensor:
        """The product with directions p of shape (N, n)."""
        t = self.tangent * (p @ self.W.T)
        t = t - coordinates(self.Q, t, self.trust) @ self.Q.T
        along = (self.along * p).sum(1, keepdim=True)
        pull = (self.pull * p).sum(1, keepdim=True)
        rest = (self.squared * along - pull) * self.along - along * self.pull
        freed = ((self.shared @ p[:, :, None]).transpose(1, 2) @ self.shared)[:, 0]
        return (self.tangent * t) @ self.W + rest - freed + self.ridge * p

    def select(self, which: Tensor) -> NormalEquations:
        """Those of some of the candidates."""
        return replace(
            self,
            tangent=self.tangent[which],
            along=self.along[which],
            pull=self.pull[which],
            shared=self.shared[which],
            squared=self.squared[which],
            ridge=self.ridge[which],
            trust=self.trust and self.trust.select(which),
        )


def gauss_newton_step(
    equation: SampleEquation,
    state: State,
    damping: Tensor,
    iterations: int,
    tolerance: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Damped Gauss-Newton step for every candidate.

    Solves min |J p + residual|^2 + damping |diag(J'J)^(1/2) p|^2.

    Parameters
    ----------
    equation : SampleEquation
        Defines the residual.
    state : State
        Of N candidates.
    damping : Tensor of shape (N,)
        Levenberg-Marquardt parameters.
    iterations : int
        Most conjugate gradient iterations.
    tolerance : Tensor of shape (N,)
        Relative size of the normal equations' residual at which to stop.
    dtype : torch.dtype, default float32
        Precision of the solution; that of its right-hand side is the equation's.

    Returns
    -------
    Tensor of shape (N, k)
        Change of the candidates, in the equation's precision.
    """
    a, W = state.tangent, equation.Wn
    squared = state.residual.square().sum(1, keepdim=True)
    along, pull = (a * state.counted) @ W, (a * state.residual) @ W
    rhs = squared * along - pull
    size = rhs.norm(dim=1, keepdim=True).clamp_min(TINY)
    Q, W, a = equation.Q.to(dtype), W.to(dtype), a.to(dtype)
    system = NormalEquations(
        Q=Q,
        W=W,
        tangent=a,
        along=along.to(dtype),
        pull=pull.to(dtype),
        shared=(a[:, None, :] * state.freedom.to(dtype)) @ W,
        squared=squared.to(dtype),
        ridge=damping.to(dtype)[:, None] * (a.square() @ W.square()) + TINY,
        trust=state.trust and state.trust.to(dtype),
    )
    goal = tolerance.to(dtype)
    solution = conjugate_gradients(system, (rhs / size).to(dtype), iterations, goal, system.select)
    return torch.nan_to_num(solution.to(rhs) * size) @ equation.directions.T
