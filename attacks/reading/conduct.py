"""How a model treats its input before a linear layer: the same whatever the mode, or not.

What a gradient shows exactly is what a layer was handed. That is the model's input only if nothing
in front of the layer changes it: no dropout, noise or augmentation, no normalisation by the batch,
in training mode or out of it. So the model is run on inputs of several sizes, in both modes, with
different random numbers and in other company, and what the layer is handed is compared. A layer is
where its product is computed, which need not be its module's doorstep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attacks.reading.memory import asking, changed_number, generator_states, kept_numbers
from attacks.reading.private import private_copy
from attacks.reading.randomness import drawn_since, kept_randomness, states
from attacks.reading.steps import by_place

Draw = Callable[[int], Tensor]

SEEDS = (1, 2, 3)
"""Of the random numbers in the runs in training mode."""
SIZES = (1, 2, 3, 5, 6, 7, 8, 9, 10, 12, 16, 32, 64)
"""Of batches that a model hands on."""
COMPANIES = (2, 3, 4, 5, 6, 8)
"""Sizes of batches in which a sample has to be what it is alone."""
SPECIAL = (-1.0, 0.0, 1.0, 255.0, 0.5, -999.0, 127.0, 2.0, 1e-8, -0.25, 1e4, 3.0)
"""Values that stand for something in somebody's data: missing, padded, white, a class."""
ALIKE = 1e-4
"""Relative difference up to which a sample alone is what it is among others."""


@dataclass(frozen=True)
class Conduct:
    """What a model does before a linear layer.

    Attributes
    ----------
    passes : bool
        Whether the layer is handed the input itself, in both modes.
    reason : str, optional
        Why what the layer is handed is no function of one input alone; None if it is one, the same
        in both modes.
    """

    passes: bool
    reason: str | None


class _Arrived(BaseException):
    """Ends a forward pass; no code of the model's own catches it."""


class Listening(TorchFunctionMode):
    """Hears what the products of chosen linear layers are handed, and may answer in their place.

    Parameters
    ----------
    weights : dict from str to Tensor
        The layers' names and weights, in the model that is run.
    answers : dict from str to Tensor, optional
        What to return in a layer's place.
    stop : bool, default False
        Whether the pass ends once all layers have been heard.
    """

    def __init__(
        self,
        weights: dict[str, Tensor],
        answers: dict[str, Tensor] | None = None,
        stop: bool = False,
    ) -> None:
        super().__init__()
        self.weights = weights
        self.answers = answers or {}
        self.stop = stop
        self.heard: dict[str, Tensor] = {}
        self.said: dict[str, Tensor] = {}
        self.drew = False
        self._before = states()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        args, kwargs = by_place(func, args, kwargs or {})
        name = None
        if func is nn.functional.linear and len(args) > 1:
            name = next((n for n, w in self.weights.items() if w is args[1]), None)
        if name is None:
            return func(*args, **(kwargs or {}))
        self.heard[name] = args[0].detach().clone()
        self.drew = self.drew or drawn_since(self._before)
        if self.stop and len(self.heard) == len(self.weights):
            raise _Arrived
        result = self.answers[name] if name in self.answers else func(*args, **(kwargs or {}))
        self.said[name] = result.detach().clone()
        return result


@dataclass
class Pass:
    """One run: what a layer was handed, and what each module made of what it was given."""

    seen: Tensor | None
    drew: bool
    modules: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def conduct(model: nn.Module, layer: str, draw: Draw) -> Conduct:
    """What a model does to its input before a linear layer.

    Parameters
    ----------
    model : nn.Module
        A private copy; copied again.
    layer : str
        Name of an ``nn.Linear`` that the model uses, or of a parameter that it multiplies by.
    draw : callable int -> Tensor
        Makes that many inputs, the same ones on each call.

    Returns
    -------
    Conduct
    """
    x = draw(4)
    quiet, lively = private_copy(model).eval(), _in_training(model)
    plain = _passes(quiet, layer, x)
    if plain.seen is None:
        return Conduct(False, f"{layer!r} is not used for every input")
    if len(plain.seen) < len(x) and plain.seen.dim() > 1:
        return Conduct(False, f"{layer!r} is handed a part of the batch at a time")
    passes = same_values(plain.seen, x) and _hands_on(quiet, layer, draw)
    again = _passes(quiet, layer, x, seed=SEEDS[0])
    if plain.drew or again.seen is None or not same_values(again.seen, plain.seen):
        return Conduct(False, f"what the model hands to {layer!r} is drawn at random")
    graded = _passes(quiet, layer, x, grad=True)
    if graded.seen is None or not same_values(graded.seen, plain.seen):
        return Conduct(False, f"{layer!r} is handed something else while gradients are recorded")
    try:
        told = _liveliness(lively, layer, x, plain)
    except Exception as reason:  # the module's own code may raise anything
        return Conduct(False, f"the model cannot be run in training mode: {_line(reason)}")
    if told is None and passes and not _hands_on(lively, layer, draw):
        told = f"in training mode the model changes what {layer!r} sees"
    if told is None and not passes:
        told = _company(quiet, layer, draw) or _company(lively, layer, draw)
    return Conduct(passes and told is None, told)


def _in_training(model: nn.Module) -> nn.Module:
    """A copy in training mode, its modules too that keep themselves out of it."""
    lively = private_copy(model).train()
    for module in lively.modules():
        module.training = True
    return lively


def _liveliness(lively: nn.Module, layer: str, x: Tensor, plain: Pass) -> str | None:
    """Complaint about what a model does before a layer in training mode."""
    before = kept_numbers(lively)
    with asking(lively) as asked:
        for seed in SEEDS:
            run = _passes(lively, layer, x, seed, grad=True)
            if run.drew or run.seen is None or plain.seen is None:
                return f"in training mode {_culprit(plain, run)} changes what {layer!r} sees"
            if not same_values(run.seen, plain.seen):
                return f"in training mode {_culprit(plain, run)} changes what {layer!r} sees"
    if asked:
        who = repr(asked[0]) if asked[0] else "the model"
        return f"before {layer!r} {who} asks whether it is in training mode"
    if name := changed_number(before, kept_numbers(lively)):
        return f"before {layer!r} the model changes {name!r}, which it keeps from call to call"
    return None


def _hands_on(model: nn.Module, layer: str, draw: Draw) -> bool:
    """Whether a layer is handed the very input, for batches of many sizes and kinds of values."""
    x = draw(4)
    bytes_ = (x.abs() * 100).clamp_max(255).round()
    listed = x.new_tensor(SPECIAL)[torch.arange(x.numel(), device=x.device) % len(SPECIAL)]
    special = listed.reshape(x.shape)
    whole = bytes_.clamp_max(60).to(torch.uint8)  # four times as much still fits
    probes = [
        whole,
        1e3 * x,
        1e-3 * x.abs(),
        x.abs().clamp_max(1),
        x + 7,
        bytes_,
        bytes_ / 255,
        special,
    ]
    for probe in (*probes, *(draw(size) for size in SIZES)):
        try:
            seen = _passes(model, layer, probe, grad=True).seen
        except Exception:  # a size or values that the model refuses, a client cannot have had
            continue
        if seen is None or not same_values(seen, probe):
            return False
    return True


def _company(model: nn.Module, layer: str, draw: Draw) -> str | None:
    """Complaint if a sample alone is not what it is among others."""
    told = f"what {layer!r} sees of a sample depends on the others'"
    try:
        alone = _passes(model, layer, draw(1)).seen
    except Exception:  # a batch of one is not taken: normalisation over the batch, most likely
        return told
    for size in COMPANIES:
        x = draw(size)
        x[:1] = draw(1)
        seen = _passes(model, layer, x).seen
        if alone is None or seen is None or len(seen) != size * len(alone):
            return told
        gap = (alone - seen[: len(alone)]).norm() / alone.norm().clamp_min(1e-30)
        if not float(gap) <= ALIKE:
            return told
    return None


def _passes(model: nn.Module, layer: str, x: Tensor, seed: int = 0, grad: bool = False) -> Pass:
    run = Pass(None, False)
    weight = weight_named(model, layer)
    generators = generator_states(model)
    with torch.set_grad_enabled(grad), kept_randomness(seed), _watched(model, run):
        listening = Listening({layer: weight}, stop=True)
        try:
            with listening:
                model(x.clone())
        except _Arrived:
            run.seen, run.drew = listening.heard[layer], listening.drew
    run.drew = run.drew or generator_states(model) != generators
    return run


def weight_named(model: nn.Module, layer: str) -> Tensor:
    """Weight of a linear layer by the layer's name, or a parameter by its own.

    Parameters
    ----------
    model : nn.Module
        Has either.
    layer : str

    Returns
    -------
    Tensor
    """
    found = dict(model.named_parameters(remove_duplicate=False))
    own = f"{layer}.weight" if layer else "weight"
    return found[own] if own in found else found[layer]


@contextmanager
def _watched(model: nn.Module, run: Pass) -> Iterator[None]:
    """Keep input and output of each leaf module that is called before the layer."""

    def watch(name: str) -> Callable[[nn.Module, tuple, object], None]:
        def hook(module: nn.Module, args: tuple, output: object) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                run.modules[name] = args[0].detach().clone(), output.detach().clone()

        return hook

    leaves = [(n, m) for n, m in model.named_modules() if not list(m.children())]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _culprit(plain: Pass, lively: Pass) -> str:
    """The first module that makes something else of the same; "the model" if it is none."""
    for name, (given, made) in plain.modules.items():
        if name in lively.modules:
            other_given, other_made = lively.modules[name]
            if same_values(given, other_given) and not same_values(made, other_made):
                return repr(name)
    return "the model"


def same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same entries in the same order, whatever their shapes.

    Parameters
    ----------
    a, b : Tensor
        Of any shapes.

    Returns
    -------
    bool
        False if the numbers of entries differ.
    """
    return a.numel() == b.numel() and torch.equal(a.flatten().to(b), b.flatten())


def _line(reason: BaseException) -> str:
    told = str(reason).strip().splitlines()
    return told[0] if told else type(reason).__name__
