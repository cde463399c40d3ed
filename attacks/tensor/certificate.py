"""When a residual is small enough to be a proof."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attacks.tensor.equation import State
from attacks.tensor.subspace import GradientSpace

LOOSEST = 1e-2
STRICTEST = 1e-5
WORST_ERROR = 1e-3


def column_threshold(space: GradientSpace, columns: Tensor) -> Tensor:
    """Largest phi that is accepted as noise: three times `expected_phi`, within [1e-5, 1e-2]."""
    return (3 * expected_phi(space, columns)).clamp(STRICTEST, LOOSEST)


def expected_phi(space: GradientSpace, columns: Tensor) -> Tensor:
    """How far the gradient's noise moves a true column out of the column space.

    Noise of size sigma turns the gradient's column space by sigma S^-1, so a true column with
    coordinates q = Q'D leaves it by at most sigma |S^-1 q| / |q| to first order.

    Parameters
    ----------
    space : GradientSpace
        Of the gradient.
    columns : Tensor of shape (n, m)
        Columns D_i, of any scale.

    Returns
    -------
    Tensor of shape (n,)
    """
    q = columns @ space.Q
    size = q.norm(dim=1).clamp_min(1e-300)
    return space.noise * (q / space.S).norm(dim=1) / size


@dataclass(frozen=True)
class Verdict:
    """Per-sample outcome at the returned inputs.

    Attributes
    ----------
    phi : Tensor of shape (n,)
        Residual of the sample equation at the returned input, with the true activation.
    error : Tensor of shape (n,)
        Relative error of the input that the gradient's noise can have caused.
    certified : bool Tensor of shape (n,)
        Whether the residual is explained by noise, the error vector is unique, and the problem is
        conditioned well enough for the input to be right within `WORST_ERROR`.
    """

    phi: Tensor
    error: Tensor
    certified: Tensor


def certify(space: GradientSpace, state: State, error: Tensor) -> Verdict:
    """Judge returned inputs by the equation evaluated at them.

    Parameters
    ----------
    space : GradientSpace
        Of the gradient.
    state : State
        Of the sample equation at the returned inputs, in the full input space.
    error : Tensor of shape (n,)
        Their error bounds.
    """
    threshold = column_threshold(space, state.column)
    solved = state.phi <= threshold
    unique = state.runner_up > 10 * threshold
    return Verdict(state.phi, error, solved & unique & (error <= WORST_ERROR))
