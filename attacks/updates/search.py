"""Where to look in an update of several steps, and how exactly a sample has to fit.

A sample of step t satisfies the sample equation exactly at the parameters w_t at which its gradient
was taken, and only roughly elsewhere. One epoch of mini-batches is therefore peeled: at w_0 just
the first batch fits; it leads to w_1, and so on. If every step takes the same batch, the samples
fit best at one point in between, and the tolerance is raised until all are found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.base import Problem
from attacks.tensor.attack import layer_gradient, solve_inputs
from attacks.tensor.labels import output_jacobian
from attacks.tensor.layers import LinearPair, private_copy
from attacks.tensor.peeling import Found, remainder
from attacks.tensor.search import Candidates, SearchSettings, propose
from attacks.tensor.subspace import GradientSpace, gradient_space
from attacks.updates.client import Tensors, stepped
from attacks.updates.finish import Hypothesis

STRICT = (1e-5, 1e-4, 1e-3)
"""Residuals accepted where a sample should fit exactly, one after another; later batches show at
1e-3 and above."""

LOOSE = (1e-5, 1e-3, 1e-2, 0.05, 0.15, 0.3)
"""Residuals accepted where it can fit only roughly."""


@dataclass(frozen=True)
class Settings:
    """How hard to search."""

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
    settings : Settings
    tolerances : tuple of float
    wanted : int
        How many to look for.
    found : Found, optional
        Samples found before, which are projected out.
    """
    m, r = weight.shape
    found = found or Found(
        weight.new_zeros(0, m), weight.new_zeros(0, space.U.shape[1]), weight.new_zeros(0, r)
    )
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


def peel_epoch(
    problem: Problem, pair: LinearPair, total: Tensors, settings: Settings
) -> tuple[Hypothesis, bool] | None:
    """One epoch of mini-batches, batch by batch.

    Smooth activations give a batch's samples exactly, so its gradient is taken off the update.
    Piecewise linear ones give their columns only, which are projected out; the samples follow from
    all columns together.

    Returns
    -------
    hypothesis : Hypothesis
        Of the batches found before one was missed.
    complete : bool
        Whether these are all.
    None, if the update does not look like such an epoch: its rank is no multiple of the steps, or
    no first batch fits.
    """
    steps, lr = problem.local.steps, problem.local.lr
    assert lr is not None
    model = private_copy(problem.model).double()
    origin = _space(problem, pair, total)
    size, odd = divmod(origin.rank, steps)
    if odd or size == 0:
        return None
    kinked = len(pair.activation.kinks) > 0
    left, inputs, labels = dict(total), [], []
    found: Found | None = None
    for t in range(steps):
        here = replace(problem, model=model, gradient=left)
        layer = layer_gradient(here, pair)
        space = _truncated(gradient_space(layer), origin.rank - (0 if kinked else t * size))
        ladder = STRICT if t == 0 or not kinked else LOOSE
        before = len(found) if found is not None else 0
        weight = layer.weight @ space.V
        new = climb(
            space,
            weight,
            pair,
            problem.generator,
            settings,
            ladder,
            size,
            found if kinked else None,
        )
        if len(new) < before + size and t == 0:
            return None
        if len(new) < before + size:
            break
        found = new if kinked else None
        points = solve_inputs(space, new)[0] if kinked else new.points
        samples = points[before:] @ space.V.T
        batch = samples[:, : pair.in_features].reshape(size, *_shape(problem, pair))
        delta = new.delta[before:] @ space.to_delta.T
        classes = sign_free_labels(model, pair.outgoing, batch, delta)
        inputs.append(samples)
        labels.append(classes)
        gradient = stepped(model, batch, classes, lr)
        if not kinked:
            left = {name: value.double() - gradient[name] for name, value in left.items()}
    complete = len(inputs) == steps
    points = torch.cat(inputs) @ origin.V
    if found is not None:
        points = solve_inputs(origin, found)[0]
    order = torch.arange(len(points), device=points.device).reshape(-1, size)
    return Hypothesis(points, torch.cat(labels), order), complete


def same_batch(
    problem: Problem, pair: LinearPair, total: Tensors, settings: Settings
) -> Iterator[tuple[Hypothesis, bool]]:
    """One batch for all steps, seen from several points on the client's way.

    The mean of the steps' gradients is, to second order in the learning rate, the gradient at
    ``w_0 + q (w_k - w_0)`` with ``q = (k - 1) / (2 k)``. Half of q and w_0 itself come next.

    Yields
    ------
    hypothesis : Hypothesis
        Of as many samples as were found from one point.
    complete : bool
        Whether these are all.
    """
    steps, lr = problem.local.steps, problem.local.lr
    assert lr is not None
    q = (steps - 1) / (2 * steps)
    for fraction in (q, q / 2, 0.0):
        model = private_copy(problem.model).double()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.sub_(fraction * lr * total[name].double())
        layer = layer_gradient(replace(problem, model=model, gradient=total), pair)
        space = gradient_space(layer)
        weight = layer.weight @ space.V
        found = climb(space, weight, pair, problem.generator, settings, LOOSE, space.rank)
        points = solve_inputs(space, found)[0] if len(found) else found.points
        inputs = (points @ space.V.T)[:, : pair.in_features]
        labels = sign_free_labels(
            model,
            pair.outgoing,
            inputs.reshape(len(found), *_shape(problem, pair)),
            found.delta @ space.to_delta.T,
        )
        order = torch.arange(len(found), device=points.device).repeat(steps, 1)
        yield Hypothesis(points, labels, order), len(found) == space.rank


def sign_free_labels(
    model: torch.nn.Module, outgoing: str, inputs: Tensor, delta: Tensor
) -> Tensor:
    """Classes whose back-propagated errors are most nearly parallel to delta, up to sign."""
    if not len(inputs):
        return torch.zeros(0, dtype=torch.int64, device=delta.device)
    output, jacobian = output_jacobian(model, outgoing, inputs)
    pull = torch.einsum("nc,nck->nk", torch.softmax(output, 1), jacobian)
    errors = pull[:, None, :] - jacobian
    cosine = torch.einsum("nck,nk->nc", errors, delta) / errors.norm(dim=2).clamp_min(1e-300)
    return cosine.abs().argmax(1)


def _space(problem: Problem, pair: LinearPair, total: Tensors) -> GradientSpace:
    return gradient_space(layer_gradient(replace(problem, gradient=total), pair))


def _truncated(space: GradientSpace, rank: int) -> GradientSpace:
    """The space with at most this rank; errors of the samples found before add small directions."""
    if space.rank <= rank:
        return space
    last = None if space.last is None else space.last[:rank]
    noise = float(space.S[rank])
    return replace(
        space, Q=space.Q[:, :rank], S=space.S[:rank], V=space.V[:, :rank], last=last, noise=noise
    )


def _shape(problem: Problem, pair: LinearPair) -> tuple[int, ...]:
    return problem.input_shape or (pair.in_features,)
