"""A network cut in two at an inner linear layer: a front makes features, a tail classifies them.

The front is whatever computes the layer's input; it is run as it stands and stopped there by a
hook, so it may be any module. The tail is the traced rest, a network that begins with the linear
layer, on which the exact attack works as on any other; where the rest cannot be traced, or looks at
more than the features, the pair of linear layers alone has to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.errors import NotApplicable
from attacks.matching.client import private_model
from attacks.reading.inputs import drawing
from attacks.reading.private import private_copy
from attacks.reading.recording import Recording, record
from attacks.reading.replay import Replayed, rest_of
from attacks.reading.steps import Value
from attacks.tensor.layers import LinearPair


class _Reached(BaseException):
    """Carries a layer's input out of a forward pass; no code of the model's own catches it."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


class Front:
    """The part of a model before a layer, as a function of inputs and, if wanted, parameters.

    Parameters
    ----------
    model : nn.Module
        Not changed; the front works on a copy in evaluation mode.
    layer : str
        Name of the module whose input are the features.
    dtype : torch.dtype
        To compute in.
    """

    def __init__(self, model: nn.Module, layer: str, dtype: torch.dtype) -> None:
        self.model = private_model(model, dtype).eval().requires_grad_(False)
        self.layer = layer
        self.dtype = dtype
        self.model.get_submodule(layer).register_forward_pre_hook(_stop)

    def __call__(self, x: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """Features (n, ...) of inputs (n, *input_shape).

        Raises
        ------
        NotApplicable
            If the model does not call the layer.
        """
        try:
            torch.func.functional_call(self.model, dict(parameters or {}), (x,))
        except _Reached as reached:
            return reached.value
        raise NotApplicable(f"The model does not call its layer {self.layer!r}.")

    def to(self, dtype: torch.dtype) -> Front:
        """The same front in another precision."""
        return Front(self.model, self.layer, dtype)

    def parameters(self, shape: tuple[int, ...]) -> dict[str, Tensor]:
        """The parameters that the features of an input of this shape depend on."""
        named = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        like = next(iter(named.values()))
        with torch.enable_grad():
            leaves = {name: p.requires_grad_(True) for name, p in named.items()}
            features = self(torch.ones(1, *shape, dtype=self.dtype, device=like.device), leaves)
            if not features.requires_grad:
                return {}
            slopes = torch.autograd.grad(features.sum(), list(leaves.values()), allow_unused=True)
        used = zip(leaves.items(), slopes, strict=True)
        return {name: p.detach() for (name, p), slope in used if slope is not None}


def _stop(module: nn.Module, args: tuple[Tensor, ...]) -> None:
    raise _Reached(args[0])


@dataclass(frozen=True)
class Tail:
    """What follows the cut, as a module of its own.

    Attributes
    ----------
    module : nn.Module
        Begins with the pair's hidden layer.
    names : dict from str to str
        From the module's parameter names to the whole model's.
    complete : bool
        Whether the module ends in the model's output; otherwise it ends with the pair.
    """

    module: nn.Module
    names: dict[str, str]
    complete: bool

    def layer(self, name: str) -> str:
        """The module's own name of a linear layer that the whole model has under `name`."""
        own = next(own for own, whole in self.names.items() if whole == f"{name}.weight")
        return own.removesuffix(".weight")

    def gradient(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The observed gradient of the tail's own parameters, in float64."""
        return {
            own: gradient[name].double() for own, name in self.names.items() if name in gradient
        }


def tail_of(model: nn.Module, pair: LinearPair, shape: tuple[int, ...]) -> Tail:
    """The rest of a model behind the input of a pair's hidden layer.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    pair : LinearPair
        Of the model; the cut is at the input of its hidden layer.
    shape : tuple of int
        Of one input of the model.

    Returns
    -------
    Tail
        Complete, or the pair alone where the rest cannot be run by itself or looks at more than the
        features.
    """
    private = private_copy(model).eval()
    recording = record(private, drawing(private, shape))
    module = _recorded_tail(recording, pair.hidden)
    if module is not None and _follows(module, private, pair.hidden, drawing(private, shape)(3)):
        return Tail(module, module.names, complete=True)
    return pair_alone(model, pair)


def pair_alone(model: nn.Module, pair: LinearPair) -> Tail:
    """The pair's two linear layers and the activation between them.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    pair : LinearPair
        Of the model.

    Returns
    -------
    Tail
        Never complete.
    """
    private = private_copy(model).eval()
    layers = nn.Sequential(
        private.get_submodule(pair.hidden),
        _Elementwise(pair),
        private.get_submodule(pair.outgoing),
    )
    places = {"0": pair.hidden, "2": pair.outgoing}
    names = {
        name: f"{places[name.split('.')[0]]}.{name.split('.')[1]}"
        for name, _ in layers.named_parameters()
    }
    return Tail(layers, names, complete=False)


class _Elementwise(nn.Module):
    """A pair's activation as a module."""

    def __init__(self, pair: LinearPair) -> None:
        super().__init__()
        self.function = pair.activation.function

    def forward(self, z: Tensor) -> Tensor:
        return self.function(z)


def _recorded_tail(recording: Recording, hidden: str) -> Replayed | None:
    """Module from the hidden layer's input to the model's output; None if there is none."""
    calls = [n for n in recording.linear if recording.steps[n].linear == hidden]
    if len(calls) != 1:
        return None
    source = recording.steps[calls[0]].args[0]
    return rest_of(recording, source) if isinstance(source, Value) else None


def _follows(tail: nn.Module, model: nn.Module, hidden: str, x: Tensor) -> bool:
    """Whether a tail makes of a batch's features what the model makes of the batch."""
    try:
        with torch.no_grad():
            made = tail(Front(model, hidden, x.dtype)(x))
            whole = model(x)
    except (RuntimeError, ValueError, NotApplicable):
        return False  # recorded for another batch size
    return made.shape == whole.shape and torch.allclose(made, whole, rtol=1e-3, atol=1e-5)
