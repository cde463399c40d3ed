"""The exact attack: every sample of a batch, with a proof, from one gradient.

It reads like the mathematics. The gradient of the first linear layer factorises into the samples
and one column per sample (`subspace`); a column that belongs to a true sample satisfies an equation
nothing else satisfies (`equation`); candidates are driven to its zeros (`smooth`, `gates`), found
samples are projected out and the rest is searched again (`peeling`); all columns together give all
inputs by least squares; and each input is held against the equation once more (`certificate`) and
against the model itself (`labels`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from attacks.base import Attack, NotApplicable, Problem, Reconstruction, in_layers
from attacks.reading.losses import unknown
from attacks.tensor.assembly import assemble
from attacks.tensor.certificate import clean
from attacks.tensor.layers import LinearPair, input_pair
from attacks.tensor.noisy import STUCK, refine
from attacks.tensor.peeling import peel
from attacks.tensor.pruned import fill, lost
from attacks.tensor.search import SearchSettings
from attacks.tensor.subspace import GradientSpace, LayerGradient, gradient_space

CONTRADICTION = 1e3
"""Share of the errors that sums to something, in units of the noise, which no cross entropy has."""
UNLIKE = 0.9
"""Relative misfit of the whole gradient from which a noisy reconstruction counts as none."""


class TensorAttack(Attack):
    """Exact reconstruction from one gradient of Linear - activation - Linear - anything.

    Works for any elementwise activation that is neither linear nor quadratic, any depth, and any
    batch well below the first layer's width. Needs no labels and no batch size.

    Parameters
    ----------
    candidates : int, default 96
        Most candidates per round of the search, at least 2.
    patience : int, default 5
        Rounds without a new sample after which the search gives up.
    blur : tuple of float, default (0.15, 0.05)
        Widths to which kinks of the activation are blurred, one stage each, in standard deviations
        of the pre-activations.
    tensor_step : bool, default True
        Whether half of the starts come from the moment tensor; otherwise all are random.
    fit : bool, default True
        Whether all samples of a noisy or pruned gradient are fitted together after the search.

    Raises
    ------
    ValueError
        If there are fewer than two candidates.
    """

    def __init__(
        self,
        candidates: int = 96,
        patience: int = 5,
        blur: tuple[float, ...] = (0.15, 0.05),
        tensor_step: bool = True,
        fit: bool = True,
    ) -> None:
        if candidates < 2:
            raise ValueError(f"candidates={candidates} must be at least 2.")
        self.candidates = candidates
        self.patience = patience
        self.blur = blur
        self.tensor_step = tensor_step
        self.fit = fit

    def reconstruct(self, problem: Problem) -> Reconstruction:
        """Reconstruct the batch; see `Attack.run`."""
        problem = in_layers(problem)
        pair = readable_pair(problem)
        layer = layer_gradient(problem, pair)
        gaps = fill(layer, problem.generator, problem.knows.batch_size)
        layer = gaps.layer if gaps else layer
        size = gaps.rank if gaps else problem.knows.batch_size
        if gaps is None:
            space = gradient_space(layer, size)
            if contradicted(layer, space):
                problem = replace(problem, loss=unknown)
                layer = replace(layer, errors=None)
                space = gradient_space(layer, size)
        elif len(pair.activation.kinks):
            space = gaps.blurred(gradient_space(layer, size))
        else:
            space = gaps.opened(gaps.rank)
        info: dict[str, Any] = {
            "hidden_layer": pair.hidden,
            "activation": pair.activation.kind,
            "rank": space.rank,
            "errors_rank": space.U.shape[1],
            "noise_floor": space.noise,
        }
        if problem.loss is unknown:
            info["loss"] = "not cross entropy: the errors do not sum to zero"
        if gaps:
            info |= {"completion_rank": gaps.rank, "completion_error": gaps.error}
        if reason := hopeless(space, layer):
            return nothing(problem, pair, info | {"reason": reason})

        found = peel(
            space,
            layer.weight @ space.V,
            pair.activation,
            problem.generator,
            SearchSettings(self.candidates, self.blur, self.tensor_step),
            self.patience,
        )
        info |= {"rounds": found.rounds, "found": len(found), "interrupted": found.interrupted}
        if len(found):
            result = assemble(problem, pair, layer, space, found, info)
        else:
            result = nothing(problem, pair, info | {"reason": "no candidate solved the equation"})
        if self.fit and not (found.interrupted or clean(space, layer.precision)):
            result = refine(problem, pair, layer, space, result, found, info, gaps)
        return explained(problem, pair, result)


def readable_pair(problem: Problem) -> LinearPair:
    """The pair of linear layers at the model's input, or a reason why there is none.

    Parameters
    ----------
    problem : Problem
        Its model is left as it was found.

    Returns
    -------
    LinearPair
        With the gradients of both layers' weights at hand.

    Raises
    ------
    NotApplicable
        If the model does not begin with Linear - elementwise activation - Linear, if that
        activation is linear or quadratic, or if the gradient of one of the weights is not there.
    """
    pair = input_pair(problem.model, problem.input_shape)
    if pair.activation.kind in ("linear", "quadratic"):
        raise NotApplicable(
            f"The activation behind {pair.hidden!r} is {pair.activation.kind}: its gradient "
            "determines the samples only up to mixing, so the batch is not identifiable."
        )
    for name in (f"{pair.hidden}.weight", f"{pair.outgoing}.weight"):
        if name not in problem.gradient:
            raise NotApplicable(f"The gradient of {name!r} is needed and not there.")
    return pair


def layer_gradient(problem: Problem, pair: LinearPair) -> LayerGradient:
    """Weights and gradients of a pair of layers in float64, biases as a last column.

    Parameters
    ----------
    problem : Problem
        Holds the model and the gradient.
    pair : LinearPair
        Of the model; the gradient has both layers' weights.

    Returns
    -------
    LayerGradient
        With biases if the gradient has the first layer's.
    """
    hidden = problem.model.get_submodule(pair.hidden)
    outgoing = problem.model.get_submodule(pair.outgoing)
    assert isinstance(hidden, nn.Linear)
    assert isinstance(outgoing, nn.Linear)
    weight = hidden.weight.detach().double()
    arrived = problem.gradient[f"{pair.hidden}.weight"]
    gradient = arrived.double()
    bias = problem.gradient.get(f"{pair.hidden}.bias")
    errors = None
    if pair.at_output and problem.loss == "cross_entropy":  # softmax minus one-hot sums to zero
        ones = torch.ones_like(outgoing.weight[:, :1]).double()
        errors = torch.linalg.qr(ones, mode="complete").Q[:, 1:].detach()
    if bias is not None:
        weight = torch.cat([weight, hidden.bias.detach().double()[:, None]], 1)
        gradient = torch.cat([gradient, bias.double()[:, None]], 1)
    return LayerGradient(
        weight=weight,
        gradient=gradient,
        outgoing=outgoing.weight.detach().double(),
        outgoing_gradient=problem.gradient[f"{pair.outgoing}.weight"].double(),
        biased=bias is not None,
        precision=max(torch.finfo(t).eps for t in (arrived.dtype, hidden.weight.dtype)) / 2,
        errors=errors,
    )


def contradicted(layer: LayerGradient, space: GradientSpace) -> bool:
    """Whether errors at the model's output do not sum to zero, as those of cross entropy do.

    Parameters
    ----------
    layer, space : LayerGradient, GradientSpace
        Of the gradient.

    Returns
    -------
    bool
        False unless the sum is far above what noise makes of it.
    """
    if layer.errors is None or space.rank == 0:
        return False
    observed = layer.outgoing_gradient
    allowed = layer.errors @ (layer.errors.T @ observed)
    share = float((observed - allowed).norm() / observed.norm().clamp_min(1e-300))
    return share > CONTRADICTION * (space.noise / float(space.S[0]) + layer.precision)


def hopeless(space: GradientSpace, layer: LayerGradient) -> str | None:
    """Why a batch cannot be read by counting alone, or None.

    Parameters
    ----------
    space, layer : GradientSpace, LayerGradient
        Of the gradient.

    Returns
    -------
    str or None
        The reason in words.
    """
    m, width = layer.weight.shape
    if space.rank == 0:
        return "the gradient vanishes"
    if space.rank >= min(m, width):
        return f"the gradient has full rank {space.rank}: the batch exceeds the layer"
    if not layer.pruned and lost(layer, space):
        return "too many entries of the gradient are missing to fill them in"
    if space.rank + space.U.shape[1] > m:
        return f"{m} equations for {space.rank + space.U.shape[1]} unknowns per sample"
    return None


def nothing(problem: Problem, pair: LinearPair, info: dict[str, Any]) -> Reconstruction:
    """An honest empty result.

    Parameters
    ----------
    problem, pair : Problem, LinearPair
        Say shape and dtype of an input.
    info : dict
        The reconstruction's; its "rank" is the batch size unless it is zero.

    Returns
    -------
    Reconstruction
        Without inputs and labels.
    """
    shape = problem.input_shape or (pair.in_features,)
    return Reconstruction(
        inputs=problem.gradient[f"{pair.hidden}.weight"].new_zeros(0, *shape),
        batch_size=info["rank"] or None,
        info=info,
    )


def explained(problem: Problem, pair: LinearPair, result: Reconstruction) -> Reconstruction:
    """The reconstruction, or none if it has nothing to do with a noisy gradient.

    Parameters
    ----------
    problem, pair : Problem, LinearPair
        As for `nothing`.
    result : Reconstruction
        If it has inputs its info holds "clean" and "gradient_residual", and "misfit" if it was
        fitted.

    Returns
    -------
    Reconstruction
        `result` itself, or `nothing` with a reason.
    """
    limit = UNLIKE if result.info.get("misfit", 0.0) <= STUCK else UNLIKE / 2
    if not len(result) or result.info["clean"] or result.info["gradient_residual"] <= limit:
        return result
    reason = "the spectrum shows no rank, and what was found does not explain the gradient"
    return nothing(problem, pair, result.info | {"reason": reason})
