"""One step of a model as a client will take it, before anything runs.

A model of the user's may fit neither the images nor the loss. Its first batch shows it: a copy that
is thrown away is evaluated and trained on it once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from attacks.errors import NotApplicable
from attacks.reading.losses import log_probabilities
from fl_sim.errors import ScenarioError
from fl_sim.losses import negative_log_likelihood


def try_model(
    build: Callable[[], nn.Module],
    name: str,
    inputs: Tensor,
    target: Tensor,
    num_classes: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    fitting: tuple[int, ...],
    device: str = "cpu",
) -> None:
    """Refuse a model that cannot be trained on a batch.

    Parameters
    ----------
    build : callable () -> nn.Module
        Makes a new one, in training mode and on the CPU.
    name : str
        How sentences name it.
    inputs : Tensor of shape (B, C, H, W)
    target : Tensor
        Class labels of shape (B,), or one value for each output, of shape (B, num_classes).
    num_classes : int
    loss : callable (outputs, target) -> Tensor of shape ()
    fitting : tuple of int
        Numbers of outputs that fit a target with one value for each class.
    device : str, default "cpu"
        Where the step is taken.

    Raises
    ------
    ScenarioError
        If its parameters cannot be sent, it raises an error, or its outputs are not finite, do not
        depend on its parameters or are not of the shape that the loss needs.
    """
    model = build()
    _check_values(model, name)
    shape = tuple(inputs.shape)
    with torch.random.fork_rng(devices=[]):
        try:
            model, inputs, target = model.to(device), inputs.to(device), target.to(device)
            with torch.no_grad():
                _check_outputs(model.eval()(inputs), name, target, num_classes, fitting)
            outputs = model.train()(inputs)
        except ScenarioError:
            raise
        except Exception as error:
            raise ScenarioError(
                f"{name} fails on inputs of shape {shape}: {_told(error)}"
            ) from error
        _check_outputs(outputs, name, target, num_classes, fitting)
        if loss is negative_log_likelihood and not log_probabilities(outputs):
            raise ScenarioError(
                f"{name} gives outputs that are no log-probabilities, which loss=nll takes: end it "
                "in log_softmax, or set loss=cross_entropy."
            )
        if not outputs.requires_grad:
            raise ScenarioError(
                f"{name} gives outputs that do not depend on its parameters, so it cannot be "
                "trained: its forward pass detaches them."
            )
        try:
            parameters = [p for p in model.parameters() if p.requires_grad]
            torch.autograd.grad(loss(outputs, target), parameters, allow_unused=True)
        except Exception as error:
            raise ScenarioError(f"{name} has no gradient of the loss: {_told(error)}") from error


def _check_values(model: nn.Module, name: str) -> None:
    """Raise `ScenarioError` unless every parameter and buffer has values that can be sent."""
    for key, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise ScenarioError(f"{name} has {key!r} in its state, which is no tensor.")
        if tensor.is_meta:
            raise ScenarioError(
                f"{name} has {key!r} on the meta device, where it has a shape but no values."
            )
        try:
            tensor.cpu().numpy()
        except (TypeError, RuntimeError) as error:
            raise ScenarioError(
                f"{name} has {key!r} of type {tensor.dtype}, which cannot be sent: {_told(error)}"
            ) from error


def _check_outputs(
    outputs: Any, name: str, target: Tensor, num_classes: int, fitting: tuple[int, ...]
) -> None:
    """Raise `ScenarioError` unless these are outputs that the loss can be taken of."""
    if not isinstance(outputs, Tensor):
        raise ScenarioError(f"{name} returns a {type(outputs).__name__}, not a tensor.")
    images, shape = len(target), tuple(outputs.shape)
    if len(shape) != 2 or shape[0] != images:
        raise ScenarioError(
            f"{name} gives outputs of shape {shape} for {images} inputs; it has to be "
            f"({images}, {num_classes}), one output for each class."
        )
    fits = shape[1] in fitting if target.dim() == 2 else shape[1] >= num_classes
    if not fits:
        remedy = ", or set loss=bce_with_logits" if (shape[1], num_classes) == (1, 2) else ""
        many = "1 output" if shape[1] == 1 else f"{shape[1]} outputs"
        raise ScenarioError(
            f"{name} gives {many} for each input, but the data has {num_classes} classes; the loss "
            f"needs one output for each class{remedy}."
        )
    if not outputs.is_floating_point():
        raise ScenarioError(f"{name} gives outputs of type {outputs.dtype}, which is not floating.")
    if not bool(outputs.isfinite().all()):
        raise ScenarioError(f"{name} gives outputs with NaN or infinite values on its first batch.")


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, NotApplicable):
        return text
    return f"{type(error).__name__}: {text}" if text else f"{type(error).__name__}."
