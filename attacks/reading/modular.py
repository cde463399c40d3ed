"""A model whose products with its own weights are calls of linear layers, whatever they were.

Attacks read and interrupt a linear layer where its module is called. Code may take the weights of a
layer, or bare parameters, and call the linear function itself. Such a model is rewritten: what was
recorded of it runs again, with a module in each product's place. A model that treats its input in
another way in training mode stays as it is, since a recording knows one mode only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from attacks.reading.conduct import conduct
from attacks.reading.private import private_copy
from attacks.reading.recording import Recording, record
from attacks.reading.replay import Replayed, rest_of
from attacks.reading.steps import Named, Value

NAME = "linear_by_function_"
"""Of the modules that take a bare parameter's place, followed by a number."""


def modular(
    model: nn.Module,
    gradient: dict[str, Tensor],
    draw: Callable[[int], Tensor],
    unsteady: bool = False,
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model of linear layers that computes the same, and its gradient.

    Parameters
    ----------
    model : nn.Module
        A private copy.
    gradient : dict from parameter name to Tensor
        Of the model.
    draw : callable int -> Tensor
        Makes that many inputs.
    unsteady : bool, default False
        Whether a model whose input is treated in another way in training mode is rewritten as well,
        as it is in evaluation mode.

    Returns
    -------
    model : nn.Module
        `model` itself if nothing had to be rewritten, or nothing could be.
    gradient : dict from parameter name to Tensor
        Under the names of that model.

    Raises
    ------
    NotApplicable
        If the model does not take such inputs.
    """
    quiet = private_copy(model).eval()
    recording = record(quiet, draw)
    uses = recording.uses()
    bare = {n: names for n, names in _bare(recording).items() if uses[names[0]] == 1}
    silent = [s.linear for s in recording.steps if s.linear and s.linear not in recording.called]
    if not (bare or silent):
        return model, gradient
    for name in (*silent, *(weight for weight, _ in bare.values())):
        if not unsteady and conduct(quiet, name, draw).reason is not None:
            return model, gradient
    steps = list(recording.steps)
    for i, n in enumerate(bare):
        steps[n] = replace(steps[n], linear=f"{NAME}{i}")
    rewritten = rest_of(replace(recording, steps=steps), Value(0))
    if rewritten is None:
        return model, gradient
    for i, (weight, bias) in enumerate(bare.values()):
        _move(rewritten, f"{NAME}{i}", weight, bias)
    if not _same(rewritten, quiet, draw(3)):
        return model, gradient
    named = rewritten.names.items()
    return private_copy(rewritten), {own: gradient[n] for own, n in named if n in gradient}


def name_before(model: nn.Module, layer: str) -> str:
    """What a layer of a model that may have been rewritten was called before.

    Parameters
    ----------
    model : nn.Module
        From `modular`.
    layer : str
        Name of one of its linear layers.

    Returns
    -------
    str
        Name of a layer, or of the parameter that was its weight.
    """
    before = getattr(model, "names", {}).get(f"{layer}.weight", f"{layer}.weight")
    return str(before).removesuffix(".weight")


def _bare(recording: Recording) -> dict[int, tuple[str, str | None]]:
    """Weight and bias of each call of the linear function on parameters that are no module's."""
    found: dict[int, tuple[str, str | None]] = {}
    for number, step in enumerate(recording.steps):
        if step.function is not nn.functional.linear or step.linear or len(step.args) < 2:
            continue
        bias = step.args[2] if len(step.args) > 2 else step.kwargs.get("bias")
        parameters = dict(recording.model.named_parameters())
        named = [x.name if isinstance(x, Named) else x for x in (step.args[1], bias)]
        if named[0] in parameters and (named[1] is None or named[1] in parameters):
            found[number] = (named[0], named[1])
    return found


def _move(rewritten: Replayed, layer: str, weight: str, bias: str | None) -> None:
    """Make a linear layer of parameters that stand alone."""
    whole = rewritten.whole
    W = whole.get_parameter(weight)
    module = nn.Linear(W.shape[1], W.shape[0], bias=bias is not None, device="meta")
    module.weight = W
    for kind, name in (("weight", weight), ("bias", bias)):
        if name is None:
            continue
        owner, _, own = name.rpartition(".")
        setattr(module, kind, whole.get_parameter(name))
        whole.get_submodule(owner).register_parameter(own, None)
        del rewritten.names[f"whole.{name}"]
        rewritten.names[f"whole.{layer}.{kind}"] = name
    whole.add_module(layer, module)


def _same(rewritten: nn.Module, model: nn.Module, x: Tensor) -> bool:
    try:
        with torch.no_grad():
            ours, theirs = rewritten(x), model(x)
    except (RuntimeError, ValueError, KeyError):
        return False  # recorded for another batch size
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)
