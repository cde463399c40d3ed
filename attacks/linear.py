"""The linear layers of a model as one forward pass meets them: which see the input, which the end.

Label inference, batch-size estimation and the closed-form attacks read linear layers. Where those
stand is found by running a private copy of the model once on random inputs, so that a layer's
place is a fact about data, not about how the module is written.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable


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
        Whether it is handed the flattened model input.
    at_output : bool
        Whether what it returns is the model's output.
    per_sample : bool
        Whether it sees one row per sample (and not, say, one per token).
    features : Tensor of shape (in_features,)
        Its mean input over the random samples it was shown.
    """

    name: str
    module: nn.Linear
    at_input: bool
    at_output: bool
    per_sample: bool
    features: Tensor

    @property
    def weight(self) -> str:
        """Name of the weight among the model's parameters."""
        return f"{self.name}.weight" if self.name else "weight"

    @property
    def bias(self) -> str:
        """Name the bias has or would have."""
        return f"{self.name}.bias" if self.name else "bias"


def resolve_input_shape(model: nn.Module, input_shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """Shape of one input, taken from a leading linear layer if it is not given.

    Parameters
    ----------
    model : nn.Module
        Not run.
    input_shape : tuple of int or None
        Returned as it is, unless None.

    Returns
    -------
    tuple of int

    Raises
    ------
    NotApplicable
        If it is not given and the model does not begin with a linear layer.
    """
    if input_shape is not None:
        return input_shape
    first = next(
        (
            m
            for m in model.modules()
            if next(m.parameters(recurse=False), None) is not None and not list(m.children())
        ),
        None,
    )
    if isinstance(first, nn.Linear):
        return (first.in_features,)
    raise NotApplicable(
        "The model does not begin with a linear layer, so the attack needs input_shape=(C, H, W)."
    )


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
    private = copy.deepcopy(model).eval()
    names: dict[nn.Module, str] = {
        m: name for name, m in private.named_modules() if isinstance(m, nn.Linear)
    }
    calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {m: [] for m in names}
    order: list[nn.Module] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module].append((inputs[0].detach().clone(), output.detach().clone()))
        order.append(module)

    for linear in names:
        linear.register_forward_hook(record)
    x = random_inputs(private, input_shape, samples)
    try:
        with torch.no_grad():
            output = private(x)
    except RuntimeError as reason:
        raise NotApplicable(
            f"The model does not accept inputs of shape {input_shape}: {reason}"
        ) from reason
    found = []
    for module in order:
        if len(calls[module]) != 1:
            continue
        ((seen, returned),) = calls[module]
        place = model.get_submodule(names[module])
        assert isinstance(place, nn.Linear)
        found.append(
            LinearCall(
                name=names[module],
                module=place,
                at_input=_same(seen, x),
                at_output=_same(returned, output),
                per_sample=seen.dim() == 2 and len(seen) == samples,
                features=seen.reshape(-1, seen.shape[-1]).mean(0),
            )
        )
    return found


def random_inputs(model: nn.Module, input_shape: tuple[int, ...], count: int) -> Tensor:
    """Standard normal inputs on the model's device, the same on every call.

    Parameters
    ----------
    model : nn.Module
        Its first parameter gives device and dtype.
    input_shape : tuple of int
        Shape of one input.
    count : int
        Number of inputs.

    Returns
    -------
    Tensor of shape (count, *input_shape)
    """
    like = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *input_shape, generator=generator).to(like)


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
    private = copy.deepcopy(model).eval().double()
    seen: list[Tensor] = []
    handle = private.get_submodule(layer).register_forward_hook(
        lambda _, __, output: seen.append(output)
    )
    try:
        logits = private(inputs.double())
    finally:
        handle.remove()
    losses = -logits.log_softmax(1).sum(0)  # (classes,), samples stay apart in the derivative
    rows = [
        torch.autograd.grad(loss, seen[0], retain_graph=True)[0].reshape(len(inputs), -1)
        for loss in losses
    ]
    return torch.stack(rows, 1).detach()


def _same(a: Tensor, b: Tensor) -> bool:
    return a.numel() == b.numel() and torch.equal(a.flatten(), b.flatten())
