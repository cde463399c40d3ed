"""One epoch of mini-batches, batch by batch.

A sample of step t satisfies the sample equation exactly at w_t. At w_0, which the server sent, just
the first batch fits; its gradient leads to w_1, where just the second fits, and so on. The
assignment of samples to steps comes with it, whatever the learning rate.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from attacks.base import Problem
from attacks.reading.private import private_copy
from attacks.tensor.assembly import solve_inputs
from attacks.tensor.attack import layer_gradient
from attacks.tensor.labels import output_jacobian
from attacks.tensor.layers import LinearPair
from attacks.tensor.peeling import Found
from attacks.tensor.subspace import GradientSpace, gradient_space
from attacks.updates.client import ReducedClient, Tensors, stepped
from attacks.updates.finish import Hypothesis
from attacks.updates.membership import misfits
from attacks.updates.search import (
    LOOSE,
    STRICT,
    Settings,
    both_ends,
    climb,
    truncated,
    update_space,
)

LATER = 0.15
"""Misfit at approximate parameters from which a sample is taken for one of a later step."""

TRIES = 4
"""How often the rest of a batch is searched from parameters that what was found has improved."""

PATIENCE = 6
"""How many times the usual number of searches the last samples of a batch are worth."""


def peel_smooth(
    problem: Problem, pair: LinearPair, total: Tensors, settings: Settings
) -> tuple[Hypothesis, bool] | None:
    """Find each batch exactly, and take its gradient off the update.

    Parameters
    ----------
    problem : Problem
        With a public learning rate.
    pair : LinearPair
        At the model's input.
    total : dict from parameter name to Tensor
        Sum of the steps' gradients.
    settings : Settings
        How hard to search.

    Returns
    -------
    hypothesis : Hypothesis
        Of the batches found before one was missed.
    complete : bool
        Whether these are all.
    None, if the update does not look like such an epoch: its rank is no multiple of the steps, or
    no first batch fits.
    """
    steps, lr, momentum = problem.local.steps, problem.local.lr, problem.local.momentum
    assert lr is not None
    model = private_copy(problem.model).eval().double()
    origin = update_space(problem, pair, total)
    size, odd = divmod(origin.rank, steps)
    if odd or size == 0:
        return None
    left, inputs, labels = dict(total), [], []
    step: Tensors = {}
    for t in range(steps):
        layer = layer_gradient(replace(problem, model=model, gradient=left), pair)
        space = truncated(gradient_space(layer), origin.rank - t * size)
        weight = layer.weight @ space.V
        found = _whole_batch(space, weight, pair, problem.generator, settings, size, sure=t > 0)
        if len(found) < size:
            break
        samples = found.points @ space.V.T
        delta = found.delta @ space.to_delta.T
        shape = problem.input_shape or (pair.in_features,)
        batch = samples[:, : pair.in_features].reshape(size, *shape)
        classes = sign_free_labels(model, pair.outgoing, batch, delta)
        inputs.append(samples)
        labels.append(classes)
        gradient, step = stepped(model, batch, classes, lr, momentum, step)
        counted = sum(momentum**later for later in range(steps - t))
        left = {name: value.double() - counted * gradient[name] for name, value in left.items()}
    if not inputs:
        return None
    points = torch.cat(inputs) @ origin.V
    order = torch.arange(len(points), device=points.device).reshape(-1, size)
    return Hypothesis(points, torch.cat(labels), order), len(inputs) == steps


def first_batch(
    problem: Problem, pair: LinearPair, total: Tensors, settings: Settings
) -> Found | None:
    """Columns of the first of several batches, or None if this is no such epoch.

    Parameters
    ----------
    problem : Problem
        Holds the model and the number of steps.
    pair : LinearPair
        At the model's input.
    total : dict from parameter name to Tensor
        Sum of the steps' gradients.
    settings : Settings
        How hard to search.

    Returns
    -------
    Found or None
        As many samples as the rank holds for each step.
    """
    layer = layer_gradient(replace(problem, gradient=total), pair)
    space = gradient_space(layer)
    size, odd = divmod(space.rank, problem.local.steps)
    if odd or size == 0:
        return None
    weight = layer.weight @ space.V
    found = _whole_batch(space, weight, pair, problem.generator, settings, size, sure=False)
    return found if len(found) == size else None


def _whole_batch(
    space: GradientSpace,
    weight: Tensor,
    pair: LinearPair,
    generator: torch.Generator,
    settings: Settings,
    size: int,
    sure: bool,
) -> Found:
    """Search the samples that fit exactly, with more patience once it is `sure` that there are
    some, as it is when one was found.
    """
    found = climb(space, weight, pair, generator, settings, STRICT, size)
    if len(found) < size and (sure or len(found)):
        patient = replace(settings, patience=PATIENCE * settings.patience)
        wanted = size - len(found)
        found = climb(space, weight, pair, generator, patient, STRICT, wanted, found)
    return found


def peel_kinked(
    client: ReducedClient,
    observed: Tensors,
    space: GradientSpace,
    pair: LinearPair,
    generator: torch.Generator,
    settings: Settings,
    first: Found,
) -> tuple[Hypothesis, bool]:
    """Find the columns of batch after batch, and project them out.

    Piecewise linear activations give columns exactly but samples only once all columns are known,
    so w_1, w_2, ... are approximate and the tolerance is loose.

    Parameters
    ----------
    client : ReducedClient
        Simulates the steps.
    observed : dict from parameter name to Tensor
        Sum of the steps' gradients, in the client's coordinates.
    space : GradientSpace
        Of that sum.
    pair : LinearPair
        At the model's input.
    generator : torch.Generator
        Source of randomness.
    settings : Settings
        How hard to search.
    first : Found
        The first batch.

    Returns
    -------
    hypothesis : Hypothesis
        Of the batches found before one was missed.
    complete : bool
        Whether these are all.
    """
    outgoing = f"{pair.outgoing}.weight"
    size, found = len(first), first
    end = client.parameters()[outgoing] - client.lr * observed[outgoing]
    state = client.parameters()
    labels = torch.zeros(0, dtype=torch.int64, device=end.device)
    while True:
        points = solve_inputs(space, found)[0]
        order = torch.arange(len(points), device=end.device).reshape(-1, size)
        fit = misfits(client, [state], points[order[-1]], space.Q, pair.activation)
        labels = torch.cat([labels, fit.argmin(1)])
        if len(found) + size > space.rank:
            return Hypothesis(points, labels, order), len(found) == space.rank
        shares = points.new_full(order.shape, 1 / size)
        more = found
        for _ in range(TRIES):  # the more columns are known, the better are points and state
            points = solve_inputs(space, more)[0]
            state = client.path(points, labels, order, shares)[-1]
            wide = both_ends(space, state[outgoing], end)
            wanted = len(found) + size - len(more)
            more = _next_batch(client, state, wide, pair, generator, settings, more, wanted)
            if len(more) == len(found) + size:
                break
        else:
            return Hypothesis(points[: len(found)], labels, order), False
        found = more


def _next_batch(
    client: ReducedClient,
    state: Tensors,
    space: GradientSpace,
    pair: LinearPair,
    generator: torch.Generator,
    settings: Settings,
    found: Found,
    size: int,
) -> Found:
    """Add the samples of a step that begins near `state`; samples of later steps are sent back."""
    goal = len(found) + size
    weight = state[f"{client.hidden}.weight"]
    for ladder in (LOOSE[1:4], LOOSE[3:]):
        wanted = space.rank - len(found)
        new = climb(space, weight, pair, generator, settings, ladder, wanted, found)
        points = solve_inputs(space, new)[0][len(found) :]
        if len(points):
            fit = misfits(client, [state], points, space.Q, pair.activation).amin(1)
            best = fit.argsort()[: goal - len(found)]
            best = best[fit[best] < LATER] + len(found)
            kept = torch.cat([torch.arange(len(found), device=best.device), best])
            found = Found(new.columns[kept], new.delta[kept], new.points[kept])
        if len(found) == goal:
            break
    return found


def sign_free_labels(
    model: torch.nn.Module, outgoing: str, inputs: Tensor, delta: Tensor
) -> Tensor:
    """Classes whose back-propagated errors are most nearly parallel to delta, up to sign.

    Parameters
    ----------
    model : nn.Module
        A classifier in the inputs' dtype.
    outgoing : str
        Name of the pair's second layer, of width K.
    inputs : Tensor of shape (n, *input_shape)
        The samples.
    delta : Tensor of shape (n, K)
        Their errors at that layer's output, up to scale and sign.

    Returns
    -------
    int64 Tensor of shape (n,)
    """
    output, jacobian = output_jacobian(model, outgoing, inputs)
    pull = torch.einsum("nc,nck->nk", torch.softmax(output, 1), jacobian)
    errors = pull[:, None, :] - jacobian
    cosine = torch.einsum("nck,nk->nc", errors, delta) / errors.norm(dim=2).clamp_min(1e-300)
    return cosine.abs().argmax(1)
