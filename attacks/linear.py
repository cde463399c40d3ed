"""The linear layers of a model as one forward pass meets them: which see the input, which the end.

Label inference, batch-size estimation and the closed-form attacks read linear layers. Where those
stand is found by running a private copy of the model once on random inputs, so that a layer's
place is a fact about data, not about how the module is written.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.reading.conduct import Conduct, conduct, same_values
from attacks.reading.inputs import drawing
from attacks.reading.private import private_copy
from attacks.reading.recording import record


@dataclass(frozen=True)
class LinearCall:
    """One ``nn.Linear`` that a forward pass uses exactly once.

    Attributes
    ----------
    name : str
        Qualified name.
    module : nn.Linear
        Of the model itself, not of a copy.
    at_input : bool
        Whether it is handed the flattened model input, in evaluation and in training mode.
    at_output : bool
        Whether what it returns is the model's output.
    per_sample : bool
        Whether it sees one row per sample (and not, say, one per token).
    features : Tensor of shape (in_features,)
        Its mean input over the random samples it was shown.
    reason : str, optional
        Why a layer that is handed the input in evaluation mode is not `at_input` all the same.
    """

    name: str
    module: nn.Linear
    at_input: bool
    at_output: bool
    per_sample: bool
    features: Tensor
    reason: str | None = None

    @property
    def weight(self) -> str:
        """Name of the weight among the model's parameters."""
        return _own(self.name, "weight")

    @property
    def bias(self) -> str:
        """Name the bias has or would have."""
        return _own(self.name, "bias")


def linear_calls(
    model: nn.Module, input_shape: tuple[int, ...], samples: int = 8
) -> list[LinearCall]:
    """All linear layers that one forward pass calls once, in the order of the calls.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    input_shape : tuple of int
        Shape of one input.
    samples : int, default 8
        Number of standard normal inputs shown to the model.

    Returns
    -------
    list of LinearCall
        Empty if there is none.

    Raises
    ------
    NotApplicable
        If the model does not accept inputs of that shape.
    """
    private = private_copy(model).eval()
    draw = drawing(private, input_shape)
    recording = record(private, draw, samples)
    uses = recording.uses()
    found = []
    for number, (seen, returned) in recording.linear.items():
        name = recording.steps[number].linear
        assert name is not None
        place = model.get_submodule(name)
        assert isinstance(place, nn.Linear)
        if any(uses[_own(name, kind)] > 1 for kind in ("weight", "bias")):
            continue
        first = same_values(seen, recording.inputs) and seen.numel() == samples * seen.shape[-1]
        met = conduct(private, name, draw) if first else Conduct(False, None)
        found.append(
            LinearCall(
                name=name,
                module=place,
                at_input=met.passes,
                at_output=same_values(returned, recording.returned),
                per_sample=seen.dim() == 2 and len(seen) == samples,
                features=seen.reshape(-1, seen.shape[-1]).mean(0),
                reason=met.reason,
            )
        )
    return found


def bias_gradients(model: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    """The cross entropy's derivative by a linear layer's bias, for single samples of every class.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    layer : str
        Name of the layer; it need not have a bias.
    inputs : Tensor of shape (n, *input_shape)
        One sample each.

    Returns
    -------
    Tensor of shape (n, classes, units)
        In float64.
    """
    logits, seen = _outputs_of(model, layer, inputs)
    losses = -logits.log_softmax(1).sum(0)  # (classes,), samples stay apart in the derivative
    return _slopes(losses, seen).flatten(2).transpose(0, 1)


def output_slopes(model: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    """Derivative of the model's outputs by what a linear layer returns, for one input.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    layer : str
        Name of the layer.
    inputs : Tensor of shape (1, *input_shape)

    Returns
    -------
    Tensor of shape (outputs, units)
        In float64.
    """
    outputs, seen = _outputs_of(model, layer, inputs[:1])
    return _slopes(outputs.flatten(), seen).flatten(1)


def _outputs_of(model: nn.Module, layer: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """What a model in evaluation mode and float64, and a layer of it, return for inputs."""
    private = private_copy(model).eval().double()
    seen: list[Tensor] = []
    handle = private.get_submodule(layer).register_forward_hook(
        lambda _, __, output: seen.append(output)
    )
    try:
        with torch.enable_grad():
            output = private(inputs.double())
    finally:
        handle.remove()
    return output, seen[0]


def _slopes(values: Tensor, at: Tensor) -> Tensor:
    """Derivative of each of the values (v,) by a tensor, of shape (v, *at.shape)."""
    rows = [torch.autograd.grad(value, at, retain_graph=True)[0] for value in values]
    return torch.stack(rows).detach()


def _own(layer: str, kind: str) -> str:
    return f"{layer}.{kind}" if layer else kind
