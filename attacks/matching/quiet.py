"""A model in training mode that draws nothing at random, so that its gradient is a function.

Dropout, stochastic depth and the like draw anew in every pass, whoever wrote them and wherever they
are called: inside attention, or by a function in some module's forward pass. What draws is found by
watching the random generators, and only that is put in evaluation mode; normalisation over the
batch, which training mode is simulated for, stays.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from attacks.errors import NotApplicable
from attacks.reading.randomness import drawn_since, kept_randomness, states


def quieten(model: nn.Module, inputs: Tensor) -> bool:
    """Switch off what a model draws in training mode, layer by layer.

    Parameters
    ----------
    model : nn.Module
        A private copy; the mode of single modules is changed, not that of those they contain.
    inputs : Tensor of shape (B, *input_shape)

    Returns
    -------
    bool
        Whether the model draws nothing now. A module that draws in evaluation mode too is left as
        it was.

    Raises
    ------
    NotApplicable
        If the model does not take the inputs in the mode it is in, as normalisation over the batch
        takes no single sample.
    """
    stubborn: set[nn.Module] = set()
    with torch.no_grad(), kept_randomness():
        while drawing := _innermost(model, inputs, stubborn):
            for module in drawing:
                module.training = False
            still = _innermost(model, inputs, stubborn)
            for module in still.intersection(drawing):
                module.training = True
                stubborn.add(module)
    return not stubborn


def _innermost(model: nn.Module, inputs: Tensor, but: set[nn.Module]) -> set[nn.Module]:
    """Modules that draw in one pass and contain none that does; `but` count as if they did not."""
    before: dict[nn.Module, list[Any]] = {m: [] for m in model.modules()}
    drew: set[nn.Module] = set()

    def enter(module: nn.Module, args: tuple) -> None:
        before[module].append((states(), _accelerators(inputs)))

    def leave(module: nn.Module, args: tuple, output: object) -> None:
        common, own = before[module].pop()
        if drawn_since(common) or own != _accelerators(inputs):
            drew.add(module)

    handles = [
        handle
        for module in before
        for handle in (
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave),
        )
    ]
    try:
        model(inputs)
    except Exception as error:  # a model's own code may raise anything
        told = str(error).strip().splitlines() or [type(error).__name__]
        mode = "training" if model.training else "evaluation"
        raise NotApplicable(
            f"The model takes no batch of {len(inputs)} in {mode} mode: {told[0].rstrip('.')}."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return {m for m in drew - but if not drew.intersection(set(m.modules()) - {m})}


def _accelerators(inputs: Tensor) -> list[int] | None:
    """State of the generator on the inputs' own device; None on the CPU."""
    if not inputs.is_cuda:
        return None
    return torch.cuda.get_rng_state(inputs.device).tolist()
