"""One round of the search: starts, far stage in float32, near stage in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.tensor.activation import Activation, Slope
from attacks.tensor.certificate import LOOSEST, typical_phi, typical_turn
from attacks.tensor.equation import SampleEquation, coordinates
from attacks.tensor.gates import away_from_kinks, fit_gates
from attacks.tensor.moments import moment_slices, second_order_vanishes
from attacks.tensor.sharpen import sharpen
from attacks.tensor.smooth import Schedule, alone, minimise
from attacks.tensor.starts import along_line, random_starts, tensor_starts
from attacks.tensor.subspace import GradientSpace
from attacks.tensor.whitened import WhitenedEquation

FAR = Schedule(iterations=15, arrived=1e-5, stalled=2e-3, patience=4, inner=32)
"""From a random start, in float32."""
NEAR = Schedule(iterations=8, arrived=0.0, stalled=0.1, patience=1, inner=100)
"""To the last digit, in float64."""
BLURRED = Schedule(iterations=10, arrived=1e-9, stalled=1e-2, patience=2, inner=16)
"""Behind kinks, on smoothed slopes."""
SHARPER, CYCLE = 0.3, 4
"""Factor by which kinks are blurred less after an idle round; starts again after so many rounds."""
CURVED = (0.3, 0.1, 0.03)
"""As `SearchSettings.blur`, for sharp peaks, and for kinks of what is curved as well."""
ARRIVED, FLOOR = 3.0, 1e-6
"""Residual, in units of the gradient's noise and absolute, above which a candidate goes on."""
DOUBT = (0.1, 0.03, 0.01, 0.003)
"""Distances from a kink within which a unit is left out, in standard deviations, one stage each."""
ASTRAY = 3.0
"""Factor by which all units fit worse than those away from kinks if some are on the wrong side."""


@dataclass(frozen=True)
class SearchSettings:
    """How a round searches.

    Attributes
    ----------
    candidates : int
        Most candidates per round.
    blur : tuple of float
        Widths to which kinks are blurred, in standard deviations of the pre-activations.
    tensor_step : bool
        Whether half of the candidates come from moment slices.
    """

    candidates: int
    blur: tuple[float, ...]
    tensor_step: bool


@dataclass(frozen=True)
class Candidates:
    """What a round proposes.

    Attributes
    ----------
    points : Tensor of shape (N, k)
        In the coordinates of the search space.
    columns : Tensor of shape (N, m)
        Their columns, of norm one.
    delta : Tensor of shape (N, K)
        Their error vectors.
    phi : Tensor of shape (N,)
        Residuals of the sample equation.
    """

    points: Tensor
    columns: Tensor
    delta: Tensor
    phi: Tensor


@dataclass(frozen=True)
class Remainder:
    """The span of the samples still missing.

    Attributes
    ----------
    basis : Tensor of shape (B + open, k)
        Orthonormal, in the coordinates of the row space.
    left : Tensor of shape (m, k)
        What is left of the gradient, in those coordinates.
    spectrum : Tensor of shape (k,)
        Its singular values.
    """

    basis: Tensor
    left: Tensor
    spectrum: Tensor


def propose(
    space: GradientSpace,
    weight: Tensor,
    rest: Remainder,
    activation: Activation,
    generator: torch.Generator,
    settings: SearchSettings,
    idle: int = 0,
) -> Candidates:
    """Candidates for the missing samples.

    Parameters
    ----------
    space : GradientSpace
        Of the gradient.
    weight : Tensor of shape (m, k)
        First layer's weights in the coordinates of the remainder.
    rest : Remainder
        Where to search.
    activation : Activation
        Between the layers.
    generator : torch.Generator
        Source of randomness.
    settings : SearchSettings
        How to search.
    idle : int, default 0
        Rounds in which the search has found nothing. Kinks are blurred less and less then: samples
        much like each other are one minimum while the blur is wider than what tells them apart.

    Returns
    -------
    Candidates
        At most `settings.candidates`; some of them may be copies of others.
    """
    last = None if space.last is None else rest.basis.T @ space.last
    X = _starts(space, weight, rest, last, activation, generator, settings, idle)
    if space.noisy and not len(activation.kinks):
        return _most_likely(space, weight, last, activation, X)
    rough = SampleEquation(space.Q, space.U, weight, last, torch.float32, centred=True)
    exact = SampleEquation(space.Q, space.U, weight, last)
    if idle and last is not None and len(last) == 2 and activation.kind == "piecewise linear":
        return _every_pattern(exact, weight, last, activation, settings.candidates)
    if activation.rough:
        blur = settings.blur if activation.kind == "piecewise linear" else CURVED
        blur = tuple(width * SHARPER ** (idle % CYCLE) for width in blur)
        X = _anneal(rough, X, activation, blur).double()
    if not len(activation.kinks):
        X, phi = minimise(rough, X, activation.slope, FAR)
        X = X[alone(X, phi, 1e-6)].double()
    if activation.kind == "piecewise linear":
        return _gate_patterns(exact, X, activation)
    for width in DOUBT if len(activation.kinks) else ():
        rows = away_from_kinks(X @ weight.T, activation.kinks, width)
        X, phi = minimise(exact, X, activation.slope, NEAR, rows)
    X, _ = minimise(exact, X, activation.slope, NEAR)
    state = exact.evaluate(X, activation.slope)
    unfinished = (state.phi < LOOSEST) & (state.phi > ARRIVED * typical_phi(space, state.column))
    unfinished &= state.phi > FLOOR
    if bool(unfinished.any()):
        X[unfinished] = _to_the_noise(space, exact, activation, X[unfinished])
        state = exact.evaluate(X, activation.slope)
    found = Candidates(X, state.column, state.delta, state.phi)
    return past_kinks(exact, activation, found) if len(activation.kinks) else found


def past_kinks(exact: SampleEquation, activation: Activation, found: Candidates) -> Candidates:
    """Columns judged and made without the units so close to a kink that they may be past it.

    A sample that is right to six digits still has, among a thousand units, one on the wrong side of
    a kink now and then; its slope there is as wrong as the kink is sharp.

    Parameters
    ----------
    exact : SampleEquation
        Over the remainder.
    activation : Activation
        With kinks, and curved between them.
    found : Candidates
        Judged by all units.

    Returns
    -------
    Candidates
        The same points; where the other units fit `ASTRAY` times better, with the columns these
        determine, and their residuals.
    """
    X = found.points
    trust = exact.trusting(away_from_kinks(X @ exact.W.T, activation.kinks, DOUBT[-1]))
    state = exact.evaluate(X, activation.slope, trust)
    column = coordinates(exact.Q, state.column, trust) @ exact.Q.T
    astray = ASTRAY * state.phi < found.phi
    return Candidates(
        X,
        torch.where(astray[:, None], column, found.columns),
        torch.where(astray[:, None], state.delta, found.delta),
        torch.where(astray, state.phi, found.phi),
    )


def _to_the_noise(
    space: GradientSpace, exact: SampleEquation, activation: Activation, X: Tensor
) -> Tensor:
    """Candidates near a sample, brought there where conjugate gradients have stopped too early."""
    return sharpen(
        exact,
        X,
        lambda at: exact.evaluate(at, activation.slope),
        lambda state: typical_phi(space, state.column),
        typical_turn(space),
    ).points


def _most_likely(
    space: GradientSpace, weight: Tensor, last: Tensor | None, activation: Activation, X: Tensor
) -> Candidates:
    """Candidates that violate the equation by no more than noise does."""
    blur = space.noise / space.S
    rough = WhitenedEquation(space.Q, space.U, weight, last, blur, torch.float32)
    exact = WhitenedEquation(space.Q, space.U, weight, last, blur)
    X, phi = minimise(rough, X, activation.slope, FAR)
    X, _ = minimise(exact, X[alone(X, phi, 1e-6)].double(), activation.slope, NEAR)
    state = exact.evaluate(X, activation.slope)
    size = state.column.norm(dim=1).clamp_min(1e-300)
    return Candidates(
        X, state.column / size[:, None], state.delta / size[:, None], state.phi / size
    )


def _starts(
    space: GradientSpace,
    weight: Tensor,
    rest: Remainder,
    last: Tensor | None,
    activation: Activation,
    generator: torch.Generator,
    settings: SearchSettings,
    idle: int,
) -> Tensor:
    """Random points, half of them replaced by tensor candidates where these can be had."""
    k, K = weight.shape[1], space.U.shape[1]
    if k == 1 and last is not None:
        return (1 / last)[None]
    count = min(settings.candidates, (k + 8) * (1 + 2 * idle))
    X = random_starts(count, rest.spectrum, last, space.norm, generator)
    if not settings.tensor_step or K < 2 or k < 2 or space.open:
        return X
    slope: Slope = activation.slope
    if len(activation.kinks):
        slope = activation.smoothed(0.3 * float((X @ weight.T).std()))
    odd = second_order_vanishes(slope, X @ weight.T)
    if K * k * (2 if odd else 1) > 1.5 * len(weight):  # too few rows to fit the slices from
        return X
    slices = moment_slices(rest.left, space.U, weight, odd=odd, generator=generator)
    half = count // 2
    guesses = tensor_starts(half, slices, rest.spectrum, last, space.norm, generator)
    return torch.cat([guesses, X[half:]])


def _anneal(
    rough: SampleEquation,
    X: Tensor,
    activation: Activation,
    blur: tuple[float, ...],
) -> Tensor:
    """Follow the minima while the blur of kinks and bends shrinks."""
    spread = float((X @ rough.W.to(X).T).std())
    for width in blur:
        X, phi = minimise(rough, X, activation.smoothed(width * spread), BLURRED)
        X = X[alone(X, phi, 1e-4)]
    return X


def _every_pattern(
    exact: SampleEquation, weight: Tensor, last: Tensor, activation: Activation, count: int
) -> Candidates:
    """The best of all gate patterns that occur on the line two last samples lie on."""
    X = along_line(weight, last, activation.kinks)
    states = [exact.evaluate(part, activation.slope) for part in X.split(count)]
    phi = torch.cat([s.phi for s in states])
    best = phi.argsort()[:count]
    state = exact.evaluate(X[best], activation.slope)
    return Candidates(X[best], state.column, state.delta, state.phi)


def _gate_patterns(exact: SampleEquation, X: Tensor, activation: Activation) -> Candidates:
    """Exact columns from approximate points, through their gates."""
    z = X @ exact.W.T
    gates = activation.slope(z)[0]
    trusted = away_from_kinks(z, activation.kinks, 0.1)
    if exact.Wn.shape[1] == 0:  # a single sample is left: its point and its gates are exact
        trusted = torch.ones_like(trusted)
    fit = fit_gates(exact, gates, trusted, activation.slopes)
    return Candidates(X, fit.columns, fit.delta, fit.phi)
