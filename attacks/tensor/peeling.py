"""The search: find samples, project their columns out, search the smaller rest, repeat.

With D the columns found so far, the row space of (I - P_D) G~ is exactly the span of the samples
still missing, whatever is known about the samples found. So every round works in a smaller space
than the one before, and the last sample needs no search at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.tensor.activation import Activation
from attacks.tensor.certificate import acceptance, expected_phi
from attacks.tensor.search import Candidates, Remainder, SearchSettings, propose
from attacks.tensor.subspace import GradientSpace

FEW, LAST_FEW = 8, 5
"""So few missing samples make cheap rounds; the patience is multiplied then."""
UNUSUAL = 10.0
"""Residual, in units of the typical one of what was found, above which a column is put off."""
ALIKE = 1e-5
"""One minus the cosine of two columns that count as one."""
TOLD_APART = 30.0
"""Angle to a column found before, in units of the residual, from which a new one is no copy."""


@dataclass
class Found:
    """Samples found so far; grows in place so that an interruption loses nothing.

    Attributes
    ----------
    columns : Tensor of shape (n, m)
        D_i up to scale, of norm one.
    delta : Tensor of shape (n, K)
        Error vectors of those columns.
    points : Tensor of shape (n, B + open)
        The samples as the search saw them, in the coordinates of the row space.
    rounds : list of dict
        What each round did.
    typical : float, optional
        Median residual phi of the first round's solutions.
    interrupted : bool
        Whether the search was cut short.
    """

    columns: Tensor
    delta: Tensor
    points: Tensor
    rounds: list[dict] = field(default_factory=list)
    typical: float | None = None
    interrupted: bool = False

    def __len__(self) -> int:
        return len(self.columns)


def peel(
    space: GradientSpace,
    weight: Tensor,
    activation: Activation,
    generator: torch.Generator,
    settings: SearchSettings,
    patience: int,
) -> Found:
    """Find as many samples as there are.

    Parameters
    ----------
    space : GradientSpace
        Of the gradient.
    weight : Tensor of shape (m, B + open)
        First layer's weights in the coordinates of the row space.
    activation : Activation
        Between the layers.
    generator : torch.Generator
        Source of randomness.
    settings : SearchSettings
        How a round searches.
    patience : int
        Rounds without a new sample after which to give up; `LAST_FEW` times as many for the last
        `FEW`, where rounds are cheap and what is left tends to be samples much like each other.

    Returns
    -------
    Found
        What was found; `interrupted` if a KeyboardInterrupt cut it short.
    """
    m, k = weight.shape
    found = Found(
        weight.new_zeros(0, m), weight.new_zeros(0, space.U.shape[1]), weight.new_zeros(0, k)
    )
    idle = 0
    try:
        while len(found) < space.rank:
            missing = space.rank - len(found)
            last_few = missing <= FEW and not space.noisy
            if idle >= patience * (LAST_FEW if last_few else 1):
                break
            rest = remainder(space, found.columns)
            proposed = propose(
                space, weight @ rest.basis, rest, activation, generator, settings, idle
            )
            curved = activation.kind != "piecewise linear"
            new = _accept(space, rest, found, proposed, idle, curved)
            found.rounds.append({"missing": missing, "new": new})
            idle = 0 if new else idle + 1
    except KeyboardInterrupt:
        found.interrupted = True
    return found


def remainder(space: GradientSpace, columns: Tensor) -> Remainder:
    """Row space of the gradient once the given columns are projected out, and open inputs.

    Parameters
    ----------
    space : GradientSpace
        Of the gradient, of rank B.
    columns : Tensor of shape (n, m)
        Columns of the n <= B samples found, of any scale.

    Returns
    -------
    Remainder
        Of dimension k = B - n + open.
    """
    B, n = space.rank, len(columns)
    rest = torch.diag(space.S)
    if n:
        basis = torch.linalg.qr((columns @ space.Q).T).Q
        rest = rest - basis @ (basis.T @ rest)
    _, spectrum, Vh = torch.linalg.svd(rest)
    basis, left = Vh[: B - n].T, spectrum[: B - n]
    if space.open:
        basis = torch.block_diag(basis, torch.eye(space.open).to(basis))
        rest = torch.nn.functional.pad(rest, (0, space.open))
        left = torch.cat([left, space.S[-1:].expand(space.open)])
    return Remainder(basis, space.Q @ (rest @ basis), left)


def _accept(
    space: GradientSpace,
    rest: Remainder,
    found: Found,
    proposed: Candidates,
    idle: int,
    curved: bool,
) -> int:
    """Add the candidates that solve the equation and are not there yet; how many.

    In noise those first that fit as well as noise lets them, and worse ones the longer the search
    is idle; the last sample has to be what the others leave over. Without noise, too, those far
    above the usual residual wait until nothing better comes: the mean of two samples that differ by
    one per cent solves a smooth equation to 1e-5, and taken for a sample it would spoil the rest.
    In idle rounds what is left are samples much like those found: a candidate close to one of these
    is a copy only if its own residual could not tell the two apart.
    """
    inside = (proposed.columns @ space.Q) @ space.Q.T
    inside = inside / inside.norm(dim=1, keepdim=True).clamp_min(1e-300)
    limit = acceptance(space, proposed.columns, idle)
    if space.noisy and space.last is not None and space.rank - len(found) == 1:
        limit = torch.full_like(limit, torch.inf)
    fine = proposed.phi <= limit
    if found.typical is None and bool(fine.any()):
        found.typical = float(proposed.phi[fine].median())
    if found.typical is not None and not space.noisy and not idle:
        fine &= proposed.phi <= UNUSUAL * found.typical
    expected = expected_phi(space, proposed.columns)
    if space.noisy:  # the same sample comes in several versions then
        same = expected.square().clamp(ALIKE, 0.1)
    elif idle and curved:  # what is left are samples much like each other
        same = (TOLD_APART * torch.maximum(expected, proposed.phi)).square() / 2
        same = same.clamp_max(ALIKE)
    else:
        same = torch.full_like(limit, ALIKE)
    before, new = len(found), 0
    for i in torch.argsort(proposed.phi / limit if space.noisy else proposed.phi).tolist():
        if not fine[i] or len(found) == space.rank:
            break
        likeness = (found.columns @ inside[i]).abs()
        limits = 1 - same[i].expand(len(found)).clone()
        limits[before:] = limits[before:].clamp_max(1 - ALIKE)
        if bool((likeness > limits).any()):
            continue
        found.columns = torch.cat([found.columns, inside[i : i + 1]])
        found.delta = torch.cat([found.delta, proposed.delta[i : i + 1]])
        found.points = torch.cat([found.points, proposed.points[i : i + 1] @ rest.basis.T])
        new += 1
    return new
