"""From found columns to a reconstruction: inputs, certificates, labels, the model's own word.

All columns together give all inputs by least squares. Those of an exact gradient are sharpened one
by one; under noise a joint polish uses both layers' gradients. Each input is held against the
sample equation once more, and the whole batch against the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from attacks.base import Problem, Reconstruction
from attacks.reading.losses import parallel_errors
from attacks.reading.private import private_copy
from attacks.tensor.certificate import (
    clean,
    column_threshold,
    distinct,
    explained,
    judge,
    typical_phi,
    typical_turn,
)
from attacks.tensor.completion import holes
from attacks.tensor.equation import SampleEquation, State
from attacks.tensor.joint import observe, polish
from attacks.tensor.labels import batch_size, read_labels, replay_residual
from attacks.tensor.layers import LinearPair
from attacks.tensor.peeling import Found, remainder
from attacks.tensor.pruned import REPLAYED
from attacks.tensor.quadrature import no_nodes
from attacks.tensor.rounding import evaluate_as_client, rounding_of
from attacks.tensor.scale import settle
from attacks.tensor.sharpen import STEPS, Sharpened, sharpen
from attacks.tensor.subspace import GradientSpace, LayerGradient
from attacks.tensor.twins import one_and_the_same

GOAL = 3.0
"""Misfit of both layers' gradients, in units of their noise, at which the joint polish is done."""


@dataclass(frozen=True)
class Evidence:
    """What a reconstruction is built from.

    Attributes
    ----------
    problem, pair, layer, space, found
        As for `assemble`.
    scale, spread : Tensor of shape (n,)
        Of `solve_inputs`.
    """

    problem: Problem
    pair: LinearPair
    layer: LayerGradient
    space: GradientSpace
    found: Found
    scale: Tensor
    spread: Tensor

    @cached_property
    def equation(self) -> SampleEquation:
        """The sample equation over the whole row space."""
        return self._equation(self.space.U)

    @cached_property
    def wider_equation(self) -> SampleEquation | None:
        """The same for errors in all of `GradientSpace.wider`; None where that is no wider."""
        return None if self.space.wider is None else self._equation(self.space.wider)

    def _equation(self, U: Tensor) -> SampleEquation:
        space = self.space
        return SampleEquation(space.Q, U, self.layer.weight @ space.V, space.last)


def assemble(
    problem: Problem,
    pair: LinearPair,
    layer: LayerGradient,
    space: GradientSpace,
    found: Found,
    info: dict[str, Any],
) -> Reconstruction:
    """All inputs at once, certificates, labels, and the model's own word on the whole batch.

    Parameters
    ----------
    problem : Problem
        The attack's.
    pair, layer, space
        The layers it reads, their gradients, and the spaces of these.
    found : Found
        At least one column.
    info : dict
        What is known already; goes into the reconstruction's.

    Returns
    -------
    Reconstruction
        Of as many inputs as columns were found.
    """
    points, scale, spread = solve_inputs(space, found)
    evidence = Evidence(problem, pair, layer, space, found, scale, spread)
    sharp = sharpened(evidence, points, evidence.equation)
    errors = rescaled(evidence, points, found.delta * scale[:, None], sharp.state)
    complete = len(found) == space.rank and not layer.pruned
    if pair.activation.kind == "piecewise linear" or clean(space, layer.precision) or not complete:
        return report(evidence, sharp, errors, info)
    goal = GOAL * space.noise * space.rank**0.5 / float(space.S.norm())
    batch = polish(observe(layer, space, pair.activation), sharp.points, errors, goal)
    sharp = sharpened(evidence, batch.points, evidence.equation)
    errors = rescaled(evidence, batch.points, batch.delta, sharp.state)
    return report(evidence, sharp, errors, info | {"fit": batch.residual})


def report(
    evidence: Evidence, sharp: Sharpened, errors: Tensor, info: dict[str, Any]
) -> Reconstruction:
    """The reconstruction at given points, with their error vectors in absolute scale.

    Parameters
    ----------
    evidence : Evidence
        What the points come from.
    sharp : Sharpened
        The points, shape (n, B + open), the sample equation's state there, and standard errors.
    errors : Tensor of shape (n, K)
        Error vectors of the points, in absolute scale.
    info : dict
        What is known already; goes into the reconstruction's.

    Returns
    -------
    Reconstruction
        Of all n points; the inputs in the dtype of the observed gradient.
    """
    problem, pair, layer, space = evidence.problem, evidence.pair, evidence.layer, evidence.space
    equation, points, state = evidence.equation, sharp.points, sharp.state
    exact = clean(space, layer.precision)
    error = error_bound(evidence, points, state.phi)
    samples = points @ space.V.T
    delta = errors @ space.to_delta.T
    model = private_copy(problem.model).eval().double()
    shape = problem.input_shape or (pair.in_features,)
    inputs = samples[:, : pair.in_features].reshape(-1, *shape)
    outputs = model(inputs[:1]).numel()
    parallel = parallel_errors(problem.loss, outputs)
    columns = evidence.found.columns
    verdict = judge(space, equation, sharp, pair.activation, columns, error, exact, parallel)
    if (wider := evidence.wider_equation) is not None:
        again = sharpened(evidence, points, wider, steps=0)
        verdict &= judge(space, wider, again, pair.activation, columns, error, exact, parallel)
    certified = verdict.certified
    if not layer.biased:
        settled = settle(
            model,
            pair.outgoing,
            inputs,
            delta,
            problem.loss,
            flipped=_flip(equation, space, points, pair),
            scalable=pair.activation.kind == "piecewise linear",
            norm=space.norm,
        )
        inputs = inputs * settled.factor.view(-1, *[1] * len(shape))
        delta = delta * settled.multiplier[:, None]
        certified = certified & settled.unique
    read = read_labels(model, pair.outgoing, inputs, delta, problem.loss, space.rank)
    size, multiplicities = batch_size(read.shares, space.rank)
    shares = multiplicities / size
    residual, factor = replay_residual(
        model,
        problem.gradient,
        inputs,
        read.targets,
        shares,
        problem.loss,
        layer.pruned,
        (pair.outgoing, delta),
    )
    if not exact and (problem.loss != "cross_entropy" or not explained(space, residual)):
        certified = torch.zeros_like(certified)
    if not exact or pair.activation.kind != "piecewise linear" or read.targets is None:
        size_of_column = errors.norm(dim=1) / state.delta.norm(dim=1).clamp_min(1e-300)
        apart = distinct(
            space, layer, state, pair.activation, samples, size_of_column, problem.generator
        )
        # softmax minus one-hot has no opposite signs: what counts once in the whole gradient is one
        whole = exact and problem.loss == "cross_entropy" and len(evidence.found) == space.rank
        if whole and residual <= REPLAYED:
            apart |= multiplicities == 1
        certified = certified & apart
        missing = remainder(space, columns).basis
        certified = certified & no_nodes(
            space, equation.W, pair.activation.slope, points, state, missing
        )
    else:  # only cross entropy says how many samples one column is of
        single = (multiplicities == 1) & (problem.loss == "cross_entropy")
        if bool((certified & ~single).any()):
            one = one_and_the_same(
                model,
                pair,
                layer,
                space,
                inputs,
                read.targets,
                shares,
                problem.generator,
                problem.loss,
            )
            certified = certified & (one | single)
    homogeneous = not layer.biased and pair.activation.kind == "piecewise linear"
    if layer.pruned or homogeneous or holes(layer.gradient)[0]:
        certified = certified & (residual <= REPLAYED)
    info = info | {
        "gradient_residual": residual,
        "gradient_factor": factor,
        "clean": exact,
        "multiplicities": multiplicities.tolist(),
        "loss_scale": float(read.shares.median()) * space.rank,
        "error_bound": float(error.max()),
        "solved": int(verdict.solved.sum()),
        "unique": int(verdict.unique.sum()),
        "determined": int(verdict.determined.sum()),
    }
    dtype = problem.gradient[f"{pair.hidden}.weight"].dtype
    labels = read.labels
    if labels is not None and labels.is_floating_point():
        labels = labels.to(dtype)
    return Reconstruction(
        inputs=inputs.to(dtype),
        labels=labels,
        certified=certified,
        residual=state.phi.to(dtype),
        batch_size=size,
        info=info,
    )


def solve_inputs(space: GradientSpace, found: Found) -> tuple[Tensor, Tensor, Tensor]:
    """Samples x~ from their columns: X~ = D^+ G~, divided by the last coordinate.

    If samples are missing, D^+ G~ is right only off the missing samples' span; inside it the
    search's own point is kept.

    Parameters
    ----------
    space : GradientSpace
        Of the gradient.
    found : Found
        At least one column; its points say what the columns cannot.

    Returns
    -------
    points : Tensor of shape (n, B + open)
        In the coordinates of the row space.
    scale : Tensor of shape (n,)
        Factor that turns the found columns into the gradient's own D_i.
    spread : Tensor of shape (n,)
        Norm of each row of D^+, for columns of norm one.
    """
    C = found.columns @ space.Q  # (n, B)
    pinv = torch.linalg.pinv(C.T)  # (n, B)
    raw = torch.nn.functional.pad(pinv * space.S, (0, space.open))  # rows of D^+ G~ in terms of V
    rest = remainder(space, found.columns).basis
    outside = raw - (raw @ rest) @ rest.T
    guess = found.points - (found.points @ rest) @ rest.T
    if space.last is None or len(rest.T):
        scale = (outside * guess).sum(1) / guess.square().sum(1).clamp_min(1e-300)
    else:
        scale = raw @ space.last
    scale = torch.where(scale.abs() < 1e-300, torch.full_like(scale, 1e-300), scale)
    coordinates = outside / scale[:, None] + (found.points @ rest) @ rest.T
    return coordinates, scale, pinv.norm(dim=1)


def sharpened(
    evidence: Evidence, points: Tensor, equation: SampleEquation, steps: int = STEPS
) -> Sharpened:
    """Samples to their last digit, if they are of an exact gradient and move their equation.

    Parameters
    ----------
    evidence : Evidence
        What the points come from.
    points : Tensor of shape (n, B + open)
        In the coordinates of the row space.
    equation : SampleEquation
        Over that space.
    steps : int, default 8
        Most steps; with zero nothing moves.

    Returns
    -------
    Sharpened
        At the same points if the gradient is not `clean`; for a piecewise linear activation too,
        and then with infinite standard errors.
    """
    layer, space, activation = evidence.layer, evidence.space, evidence.pair.activation

    def evaluate(at: Tensor) -> State:
        rounding = rounding_of(layer.weight, at, layer.precision)
        return evaluate_as_client(equation, activation, at, rounding)

    if activation.kind == "piecewise linear":
        state = evaluate(points)
        return Sharpened(points, state, torch.full_like(state.phi, torch.inf))
    steps = steps if clean(space, layer.precision) else 0
    return sharpen(
        equation,
        points,
        evaluate,
        lambda at: typical_phi(space, at.column),
        typical_turn(space),
        steps,
    )


def rescaled(evidence: Evidence, points: Tensor, errors: Tensor, state: State) -> Tensor:
    """Error vectors of a state, in the scale of those that were found at other points.

    As they were where the state says nothing: behind gates that are all the same, or all closed.

    Parameters
    ----------
    evidence : Evidence
        What the points come from.
    points : Tensor of shape (n, B + open)
        Where the state is.
    errors : Tensor of shape (n, K)
        Error vectors found at the other points, in absolute scale.
    state : State
        At the points.

    Returns
    -------
    Tensor of shape (n, K)
        `errors` themselves for a piecewise linear activation.
    """
    if evidence.pair.activation.kind == "piecewise linear":
        return errors
    slopes = evidence.pair.activation.slope(points @ evidence.equation.W.T)[0]
    columns = slopes * (errors @ evidence.space.U.T)
    fresh = state.delta * (state.column * columns).sum(1, keepdim=True)
    return torch.where(fresh.isfinite().all(1, keepdim=True), fresh, errors)


def error_bound(evidence: Evidence, points: Tensor, phi: Tensor) -> Tensor:
    """Relative error of each sample that noise and wrong columns can have caused.

    X~ = D^+ G~ hands on the noise of G~ and, by the residuals phi, what is wrong with any column.
    Infinite if samples are missing: their part of G~ is spread over the others then.

    Parameters
    ----------
    evidence : Evidence
        What the points come from.
    points : Tensor of shape (n, B + open)
        The samples, in the coordinates of the row space.
    phi : Tensor of shape (n,)
        Residuals of the sample equation there.

    Returns
    -------
    Tensor of shape (n,)
    """
    sizes = evidence.scale.abs() * evidence.space.lengths(points).clamp_min(1e-300)
    wrong = (phi * sizes).norm()
    if len(evidence.found) < evidence.space.rank:
        return torch.full_like(sizes, torch.inf)
    return evidence.spread * (evidence.space.noise + wrong) / sizes


def _flip(
    equation: SampleEquation, space: GradientSpace, points: Tensor, pair: LinearPair
) -> Tensor:
    """Error multiplier that goes with -x where -x solves the equation as well; otherwise zero."""
    opposite = equation.evaluate(-points, pair.activation.slope)
    z = points @ equation.W.T
    same = (pair.activation.slope(z)[0] * pair.activation.slope(-z)[0]).sum(1)
    solved = opposite.phi <= column_threshold(space, opposite.column)
    return torch.where(solved, -same.sign(), torch.zeros_like(same))
