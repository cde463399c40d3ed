"""Whether a front lets samples differ: what random images do to the layer behind it.

The gradient tells samples apart by the slopes of the hidden layer's units. A deep front whose
weights are small hands on little but its own biases: all images have nearly the same features, all
units the same slopes, and the gradient is a sum over samples with no way to take it apart. That is
a property of the parameters the server sent, so it can be said without the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attacks.base import Problem
from attacks.features.front import Front
from attacks.reading.inputs import random_inputs
from attacks.tensor.layers import LinearPair

PROBES = 16
ALIKE = 0.1
"""Relative variation of the slopes below which samples hardly differ to the layer."""


@dataclass(frozen=True)
class Response:
    """How a hidden layer answers to random images.

    Attributes
    ----------
    features : float
        Standard deviation of its inputs over images, relative to their root mean square.
    slopes : float
        The same of its units' slopes.
    """

    features: float
    slopes: float


def response(problem: Problem, pair: LinearPair, shape: tuple[int, ...]) -> Response:
    """Response of a pair's hidden layer, rows of one image and tokens alike.

    Parameters
    ----------
    problem : Problem
        Holds the model.
    pair : LinearPair
        The layer and the activation behind it.
    shape : tuple of int
        Of one image.

    Returns
    -------
    Response
    """
    front = Front(problem.model, pair.hidden, torch.float64)
    layer = front.model.get_submodule(pair.hidden)
    with torch.no_grad():
        features = front(random_inputs(front.model, shape, PROBES))
        weight, bias = layer.weight, layer.bias
        z = torch.nn.functional.linear(features, weight, bias)  # type: ignore[arg-type]
        slopes = pair.activation.slope(z)[0]
    return Response(_variation(features), _variation(slopes))


def _variation(values: torch.Tensor) -> float:
    """Standard deviation over the first dimension, relative to the root mean square."""
    return float(values.std(0).square().mean().sqrt() / values.square().mean().sqrt())


def spoken(answer: Response) -> str:
    """A sentence if the layer hardly tells images apart, otherwise nothing."""
    if answer.slopes >= ALIKE:
        return ""
    return (
        f" To random images the layer answers alike (its inputs vary by {answer.features:.0%}, "
        f"its slopes by {answer.slopes:.1%}): with these parameters the gradient is a sum in which "
        "the samples cannot be told apart; a larger initialisation would tell them."
    )
