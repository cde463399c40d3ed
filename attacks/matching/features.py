"""The tensor step at a hidden linear layer: what enters it, and each sample's label."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attacks.base import Interrupted, NotApplicable, Problem, in_layers
from attacks.features.front import tail_of
from attacks.linear import linear_calls
from attacks.tensor.attack import TensorAttack
from attacks.tensor.layers import find_linear_pairs


@dataclass(frozen=True)
class RecoveredFeatures:
    """Inputs of a hidden linear layer.

    Attributes
    ----------
    layer : str
        Its name.
    features : Tensor of shape (n, in_features)
        Of as many samples as were recovered.
    labels : Tensor of shape (k,)
        Labels of the first k of them, k = n or 0.
    """

    layer: str
    features: Tensor
    labels: Tensor


def recover_features(problem: Problem, input_shape: tuple[int, ...]) -> RecoveredFeatures:
    """Run the tensor attack on the rest of the model behind the input of a linear layer.

    Parameters
    ----------
    problem : Problem
    input_shape : tuple of int
        Shape of one input of the whole model.

    Returns
    -------
    RecoveredFeatures
        Of as many samples as the tensor attack found.

    Raises
    ------
    NotApplicable
        If the model has no Linear - elementwise activation - Linear that sees one vector per
        sample, or its activation is linear or quadratic.
    Interrupted
        If the tensor attack was: there is no time left to use what it found.
    """
    calls = linear_calls(problem.model, input_shape)
    single = {call.name for call in calls if call.per_sample}
    pairs = [p for p in find_linear_pairs(problem.model, input_shape) if p.hidden in single]
    if not pairs:
        raise NotApplicable(
            "The model has no Linear - elementwise activation - Linear that sees one vector per "
            "sample."
        )
    pair = pairs[0]
    if in_layers(problem) is not problem:
        raise NotApplicable(
            "The model multiplies by weights in other ways than by calling linear layers, whose "
            "inputs this attack watches."
        )
    for name in (f"{pair.hidden}.weight", f"{pair.outgoing}.weight"):
        if name not in problem.gradient:
            raise NotApplicable(f"The gradient of {name!r} is needed and not there.")
    tail = tail_of(problem.model, pair, input_shape)
    present = {own: name for own, name in tail.names.items() if name in problem.gradient}
    found = TensorAttack().run(
        tail.module,
        {own: problem.gradient[name] for own, name in present.items()},
        loss=problem.loss,
        generator=problem.generator,
    )
    if found.info.get("interrupted"):
        raise Interrupted
    labels = found.labels if tail.complete and found.labels is not None else found.inputs[:0]
    if problem.loss == "cross_entropy":
        labels = labels.flatten(1)[:, 0].long() if labels.dim() > 1 else labels.long()
    return RecoveredFeatures(pair.hidden, found.inputs.flatten(1), labels)
