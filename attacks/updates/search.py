"""Where to look in an update of several steps, and how exactly a sample has to fit.

A sample of step t satisfies the sample equation exactly at the parameters w_t at which its gradient
was taken, and only roughly elsewhere. Where it fits exactly the tolerance is strict; elsewhere it
is raised until all are found, and the errors are looked for in the span of the second layer's
weights before and after the update, both of which the server knows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.base import Problem
from attacks.tensor.assembly import solve_inputs
from attacks.tensor.attack import layer_gradient
from attacks.tensor.layers import LinearPair
from attacks.tensor.peeling import Found, remainder
from attacks.tensor.search import Candidates, SearchSettings, propose
from attacks.tensor.subspace import GradientSpace, gradient_space
from attacks.updates.client import ReducedClient, Tensors

STRICT = (1e-5, 1e-4, 1e-3)
"""Residuals accepted where a sample should fit exactly, one after another; later batches show at
1e-3 and above."""

LOOSE = (1e-5, 1e-3, 1e-2, 0.05, 0.15, 0.3)
"""Residuals accepted where it can fit only roughly."""


@dataclass(frozen=True)
class Settings:
    """How hard to search.

    Attributes
    ----------
    search : SearchSettings
        How a round searches.
    patience : int
        Rounds without a new sample after which a tolerance is given up.
    """

    search: SearchSettings
    patience: int


def climb(
    space: GradientSpace,
    weight: Tensor,
    pair: LinearPair,
    generator: torch.Generator,
    settings: Settings,
    tolerances: tuple[float, ...],
    wanted: int,
    found: Found | None = None,
) -> Found:
    """Search with one tolerance after another until `wanted` samples are found.

    Parameters
    ----------
    space : GradientSpace
        Of the update.
    weight : Tensor of shape (m, r)
        First layer's weights in the coordinates of the row space.
    pair : LinearPair
        Says the activation.
    generator : torch.Generator
        Source of randomness.
    settings : Settings
        How hard to search.
    tolerances : tuple of float
        Residuals accepted, one after another.
    wanted : int
        How many to look for.
    found : Found, optional
        Samples found before, which are projected out.

    Returns
    -------
    Found
        The samples found before, and at most `wanted` more.
    """
    m, r = weight.shape
    K = space.U.shape[1]
    found = found or Found(weight.new_zeros(0, m), weight.new_zeros(0, K), weight.new_zeros(0, r))
    if found.delta.shape[1] != K:  # found with another basis of the errors
        found = replace(found, delta=found.delta.new_zeros(len(found), K))
    goal = len(found) + wanted
    for tolerance in tolerances:
        idle = 0
        while len(found) < goal and idle < settings.patience:
            rest = remainder(space, found.columns)
            proposed = propose(
                space, weight @ rest.basis, rest, pair.activation, generator, settings.search
            )
            fresh = _accept(space, rest.basis, found, proposed, tolerance, goal)
            idle = idle + 1 if len(fresh) == len(found) else 0
            found = fresh
    return found


def _accept(
    space: GradientSpace,
    basis: Tensor,
    found: Found,
    proposed: Candidates,
    tolerance: float,
    goal: int,
) -> Found:
    """Return what was found with the best fitting new candidates added."""
    inside = (proposed.columns @ space.Q) @ space.Q.T
    inside = inside / inside.norm(dim=1, keepdim=True).clamp_min(1e-300)
    for i in torch.argsort(proposed.phi).tolist():
        if not proposed.phi[i] <= tolerance or len(found) == goal:
            break
        close = 1 - min(1e-3, max(1e-5, float(tolerance) ** 2))
        if len(found) and float((found.columns @ inside[i]).abs().max()) > close:
            continue
        found = Found(
            torch.cat([found.columns, inside[i : i + 1]]),
            torch.cat([found.delta, proposed.delta[i : i + 1]]),
            torch.cat([found.points, proposed.points[i : i + 1] @ basis.T]),
        )
    return found


def rough_samples(
    client: ReducedClient,
    observed: Tensors,
    space: GradientSpace,
    pair: LinearPair,
    generator: torch.Generator,
    settings: Settings,
    fraction: float,
) -> Tensor:
    """All samples of an update as they look from one point of the client's way.

    Parameters
    ----------
    client : ReducedClient
    observed : dict from parameter name to Tensor
        Sum of the steps' gradients, in the client's coordinates.
    space : GradientSpace
        Of the update.
    pair : LinearPair
    generator : torch.Generator
    settings : Settings
    fraction : float
        Which point: 0 where the client began, 1 where it ended.

    Returns
    -------
    Tensor of shape (n, r)
        In the coordinates of the row space; n may be smaller than the rank.
    """
    name = f"{client.hidden}.weight"
    weight = client.parameters()[name] - fraction * client.lr * observed[name]
    before = client.parameters()[f"{pair.outgoing}.weight"]
    wide = both_ends(space, before, before - client.lr * observed[f"{pair.outgoing}.weight"])
    found = climb(wide, weight, pair, generator, settings, LOOSE, space.rank)
    if pair.activation.kind == "piecewise linear" and len(found):
        return solve_inputs(wide, found)[0]  # the columns are better than the points
    return found.points


def both_ends(space: GradientSpace, before: Tensor, after: Tensor) -> GradientSpace:
    """The space with the errors that either of two second layers can send back.

    Parameters
    ----------
    space : GradientSpace
        Of the update.
    before, after : Tensor of shape (C, m)
        The second layer's weights.

    Returns
    -------
    GradientSpace
        With U of shape (m, K), K at most 2 C; unchanged if that were too many unknowns.
    """
    U, S, _ = torch.linalg.svd(torch.cat([before, after]).T, full_matrices=False)
    U = U[:, S / S[0] > 1e-6]
    if space.rank + U.shape[1] > len(U) // 2:  # too few equations for that many unknowns
        return space
    return replace(space, U=U, to_delta=torch.eye(U.shape[1]).to(U))


def truncated(space: GradientSpace, rank: int) -> GradientSpace:
    """The space with at most this rank; errors of the samples found before add small directions.

    Parameters
    ----------
    space : GradientSpace
        Of a gradient.
    rank : int
        The most that is kept.

    Returns
    -------
    GradientSpace
        The same if its rank is no larger.
    """
    if space.rank <= rank:
        return space
    last = None if space.last is None else space.last[:rank]
    noise = float(space.S[rank])
    return replace(
        space, Q=space.Q[:, :rank], S=space.S[:rank], V=space.V[:, :rank], last=last, noise=noise
    )


def update_space(problem: Problem, pair: LinearPair, total: Tensors) -> GradientSpace:
    """Spaces of a sum of gradients, seen from the parameters that were sent.

    Parameters
    ----------
    problem : Problem
        Holds the model; its own gradient is not used.
    pair : LinearPair
        At the model's input.
    total : dict from parameter name to Tensor
        Sum of the steps' gradients.

    Returns
    -------
    GradientSpace
    """
    return gradient_space(layer_gradient(replace(problem, gradient=total), pair))
