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
from attacks.tensor.certificate import column_threshold
from attacks.tensor.equation import SampleEquation
from attacks.tensor.gates import distrust_near_kinks, fit_gates
from attacks.tensor.smooth import Schedule, alone, minimise
from attacks.tensor.starts import random_starts
from attacks.tensor.subspace import GradientSpace

FAR = Schedule(iterations=15, arrived=1e-5, stalled=2e-3, patience=4, inner=16)
NEAR = Schedule(iterations=8, arrived=0.0, stalled=0.1, patience=1, inner=100, precision=1e-3)
BLURRED = Schedule(iterations=10, arrived=1e-9, stalled=1e-2, patience=2, inner=16)


@dataclass
class Found:
    """Samples found so far; grows in place so that an interruption loses nothing.

    Attributes
    ----------
    columns : Tensor of shape (n, m)
        D_i up to scale, of norm one.
    delta : Tensor of shape (n, K)
        Error vectors of those columns.
    points : Tensor of shape (n, B)
        The samples as the search saw them, in the coordinates of the row space.
    rounds : list of dict
        What each round did.
    interrupted : bool
        Whether the search was cut short.
    """

    columns: Tensor
    delta: Tensor
    points: Tensor
    rounds: list[dict] = field(default_factory=list)
    interrupted: bool = False

    def __len__(self) -> int:
        return len(self.columns)


@dataclass(frozen=True)
class Candidates:
    """What one round proposes: points, their columns, error vectors and residuals."""

    points: Tensor
    columns: Tensor
    delta: Tensor
    phi: Tensor


@dataclass(frozen=True)
class Remainder:
    """The span of the samples still missing.

    Attributes
    ----------
    basis : Tensor of shape (B, k)
        Orthonormal, in the coordinates of the row space.
    spectrum : Tensor of shape (k,)
        Singular values of what is left of the gradient.
    """

    basis: Tensor
    spectrum: Tensor


def peel(
    space: GradientSpace,
    weight: Tensor,
    activation: Activation,
    generator: torch.Generator,
    *,
    blur: tuple[float, ...],
    candidates: int,
    patience: int,
) -> Found:
    """Find as many samples as there are.

    Parameters
    ----------
    space : GradientSpace
        Of the gradient.
    weight : Tensor of shape (m, B)
        First layer's weights in the coordinates of the row space.
    activation : Activation
        Between the layers.
    generator : torch.Generator
        Source of randomness.
    blur : tuple of float
        Widths to which kinks are blurred, in standard deviations of the pre-activations.
    candidates : int
        Most candidates per round.
    patience : int
        Rounds without a new sample after which to give up.

    Returns
    -------
    Found
        What was found; `interrupted` if a KeyboardInterrupt cut it short.
    """
    m, B = weight.shape
    found = Found(
        weight.new_zeros(0, m), weight.new_zeros(0, space.U.shape[1]), weight.new_zeros(0, B)
    )
    idle = 0
    try:
        while len(found) < B and idle < patience:
            rest = remainder(space, found.columns)
            count = min(candidates, len(rest.spectrum) + 8)
            proposed = _propose(space, weight, activation, rest, count, generator, blur, idle)
            new = _accept(space, found, proposed)
            found.rounds.append({"missing": len(rest.spectrum), "new": new})
            idle = 0 if new else idle + 1
    except KeyboardInterrupt:
        found.interrupted = True
    return found


def remainder(space: GradientSpace, columns: Tensor) -> Remainder:
    """Row space of the gradient once the given columns are projected out."""
    B, n = space.rank, len(columns)
    rest = torch.diag(space.S)
    if n:
        basis = torch.linalg.qr((columns @ space.Q).T).Q
        rest = rest - basis @ (basis.T @ rest)
    _, spectrum, Vh = torch.linalg.svd(rest)
    return Remainder(Vh[: B - n].T, spectrum[: B - n])


def _propose(
    space: GradientSpace,
    weight: Tensor,
    activation: Activation,
    rest: Remainder,
    count: int,
    generator: torch.Generator,
    blur: tuple[float, ...],
    idle: int,
) -> Candidates:
    """One round's candidates in the span of the missing samples."""
    W = weight @ rest.basis
    last = None if space.last is None else rest.basis.T @ space.last
    if last is not None and len(last) == 1:
        count = 1
    X = random_starts(count, rest.spectrum, last, space.norm, generator)
    rough = SampleEquation(space.Q, space.U, W, last, torch.float32)
    exact = SampleEquation(space.Q, space.U, W, last)
    if len(activation.kinks):
        spread = float((X @ W.T).std()) * (
            1 if idle == 0 else 0.5 + 2 * float(torch.rand(1, generator=generator))
        )
        for width in blur:
            X, phi = minimise(rough, X, activation.smoothed(width * spread), BLURRED)
            X = X[alone(X, phi, 1e-4)]
    else:
        X, phi = minimise(rough, X, activation.slope, FAR)
        X = X[alone(X, phi, 1e-6)]
    X = X.double()
    if len(activation.slopes):
        z = X @ W.T
        gates = activation.slope(z)[0]
        trust = distrust_near_kinks(z, activation.kinks) if count > 1 else torch.ones_like(z)
        fit = fit_gates(space.Q, space.U, gates, trust, activation.slopes)
        return Candidates(X @ rest.basis.T, fit.columns, fit.delta, fit.phi)
    X, _ = minimise(exact, X, activation.slope, NEAR)
    state = exact.evaluate(X, activation.slope)
    return Candidates(X @ rest.basis.T, state.column, state.delta, state.phi)


def _accept(space: GradientSpace, found: Found, proposed: Candidates) -> int:
    """Add the candidates that solve the equation and are not there yet; how many."""
    inside = (proposed.columns @ space.Q) @ space.Q.T
    inside = inside / inside.norm(dim=1, keepdim=True).clamp_min(1e-300)
    fine = proposed.phi <= column_threshold(space, proposed.columns)
    new = 0
    for i in torch.argsort(proposed.phi).tolist():
        if not fine[i] or len(found) == space.rank:
            break
        if len(found) and float((found.columns @ inside[i]).abs().max()) > 1 - 1e-5:
            continue
        found.columns = torch.cat([found.columns, inside[i : i + 1]])
        found.delta = torch.cat([found.delta, proposed.delta[i : i + 1]])
        found.points = torch.cat([found.points, proposed.points[i : i + 1]])
        new += 1
    return new
