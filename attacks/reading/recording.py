"""What a module does to an input, function by function, whatever its code looks like.

The module is run on a real input under a mode that sees every torch function it calls. So flags,
optional arguments, shape checks and branches are decided as they are for a client, and functional
code is seen as well as modules. A function that overwrites its argument is kept as one that returns
the new value. What the mode cannot look into (a `torch.autograd.Function`) is kept as a call of the
innermost module around it. Two runs of different batch sizes tell which integers in the calls grow
with the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attacks.errors import NotApplicable
from attacks.reading.private import is_linear
from attacks.reading.randomness import kept_randomness
from attacks.reading.steps import (
    Called,
    Named,
    Overwriting,
    Step,
    Value,
    by_place,
    generalised,
    leaves,
    mapped,
)

SHAPING = ("to", "type_as", "view_as", "reshape_as", "expand_as")
FILLING = ("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor")
LIKE = ("zeros", "ones", "empty", "full", "rand", "randn", "randint")
VALUELESS = frozenset([*SHAPING, *FILLING, *(f"{kind}_like" for kind in LIKE)])
"""Functions that take shape, type or place of an argument, not its values."""


@dataclass(frozen=True)
class Recording:
    """One forward pass.

    Attributes
    ----------
    model : nn.Module
        The private copy that was run.
    steps : list of Step
        In the order of the calls; step 0 is the input itself.
    output : Value, optional
        The model's output; None if it is nothing that a step made.
    inputs : Tensor of shape (b, *input_shape)
    returned : Tensor
        The model's output.
    linear : dict from int to (Tensor, Tensor)
        Input and output of each step that is the product of an ``nn.Linear``.
    called : frozenset of str
        Those among these layers whose products were calls of their modules.
    """

    model: nn.Module
    steps: list[Step]
    output: Value | None
    inputs: Tensor
    returned: Tensor
    linear: dict[int, tuple[Tensor, Tensor]]
    called: frozenset[str] = frozenset()

    def uses(self) -> Counter[str]:
        """How often each parameter or buffer takes part in a step with its values."""
        counts: Counter[str] = Counter()
        for step in self.steps:
            if getattr(step.function, "__name__", "") in VALUELESS:
                continue
            for leaf in leaves((step.args, step.kwargs)):
                if isinstance(leaf, Named):
                    counts[leaf.name] += 1
            if isinstance(step.function, Called):
                prefix = f"{step.function.name}." if step.function.name else ""
                counts.update(n for n, _ in self.model.named_parameters() if n.startswith(prefix))
        return counts


def record(model: nn.Module, draw: Callable[[int], Tensor], batch: int = 2) -> Recording:
    """Run a module and keep what it did.

    Parameters
    ----------
    model : nn.Module
        A private copy; run twice, without a graph.
    draw : callable int -> Tensor
        Makes that many inputs.
    batch : int, default 2
        Inputs of the run that is kept.

    Returns
    -------
    Recording

    Raises
    ------
    NotApplicable
        If the module does not take such inputs.
    """
    first = _run(model, draw(batch))
    try:
        second = _run(model, draw(batch + 1))
    except NotApplicable:  # a batch of another size is not taken: all sizes are constants
        return first
    if len(first.steps) != len(second.steps):
        return first
    pairs = list(zip(first.steps, second.steps, strict=True))
    return replace(first, steps=[generalised(a, b, batch) or a for a, b in pairs])


def _run(model: nn.Module, x: Tensor) -> Recording:
    accepts(model, x)
    recorder = _Recorder(model, x)
    handles = [
        module.register_forward_hook(recorder.returned_from(name))
        for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad(), kept_randomness(), recorder:
            output = model(x)
    finally:
        for handle in handles:
            handle.remove()
    place = recorder.places.get(id(output))
    return Recording(
        model=model,
        steps=recorder.steps,
        output=place if isinstance(place, Value) else None,
        inputs=recorder.inputs,
        returned=output.clone(),
        linear=recorder.linear,
        called=frozenset(recorder.called),
    )


def accepts(model: nn.Module, x: Tensor) -> None:
    """Refuse inputs that a module does not take.

    Parameters
    ----------
    model : nn.Module
        A private copy; run once.
    x : Tensor of shape (b, *input_shape)

    Raises
    ------
    NotApplicable
        With the first line of what the module says.
    """
    try:
        with torch.no_grad(), kept_randomness():
            model(x)
    except NotApplicable:
        raise
    except Exception as reason:  # the module's own code may raise anything
        told = str(reason).strip().splitlines()
        raise NotApplicable(
            f"The model does not accept inputs of shape {tuple(x.shape[1:])}: "
            f"{told[0] if told else type(reason).__name__}"
        ) from reason


class _Recorder(TorchFunctionMode):
    """Keeps every call that makes or changes a tensor."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.model = model
        self.inputs = x.clone()
        self.steps = [Step(None, rows=len(x))]
        self.linear: dict[int, tuple[Tensor, Tensor]] = {}
        self.called: set[str] = set()
        self.places: dict[int, Value | Named] = {id(x): Value(0)}
        self.alive: list[Tensor] = [x]  # an id is a tensor's own only while the tensor lives
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self.places[id(tensor)] = Named(name)
            self.alive.append(tensor)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        args, kwargs = by_place(func, args, kwargs or {})
        if any(_inside(value) for value in leaves((args, kwargs))):
            return func(*args, **kwargs)  # a transform's inner values stand for no tensor here
        given = dict(_places(args, kwargs))
        versions = {place: value._version for place, value in given.items()}
        noted_args, noted_kwargs = self._noted(args), self._noted(kwargs)
        result = func(*args, **kwargs)
        changed = [place for place, value in given.items() if value._version != versions[place]]
        if changed:
            self._overwritten(func, changed[0], given[changed[0]], noted_args, noted_kwargs)
            return result
        if isinstance(result, Tensor) and any(result is value for value in given.values()):
            return result  # nothing was done, as by a cast to the same type
        made = [result] if isinstance(result, Tensor) else result
        if isinstance(made, list | tuple) and any(isinstance(t, Tensor) for t in made):
            step = len(self.steps)
            for item, tensor in enumerate(made):
                if isinstance(tensor, Tensor):
                    whole = isinstance(result, Tensor)
                    self._know(tensor, Value(step, None if whole else item))
            name = self._linear(func, noted_args, noted_kwargs)
            if name is not None:
                self.linear[step] = (args[0].clone(), result.clone())
            function, noted_args = _plain(func, noted_args)
            self.steps.append(Step(function, noted_args, noted_kwargs, _rows(made[0]), name))
        return result

    def returned_from(self, name: str) -> Callable[[nn.Module, tuple, object], None]:
        """Hook that keeps a module's call if nothing else says where its output comes from."""

        def hook(module: nn.Module, args: tuple, output: object) -> None:
            known = [id(a) in self.places for a in args if isinstance(a, Tensor)]
            lost = isinstance(output, Tensor) and id(output) not in self.places
            place = self.places.get(id(output))
            if isinstance(place, Value) and self.steps[place.step].linear == name:
                self.called.add(name)
            if lost and known and all(known):
                assert isinstance(output, Tensor)
                self._know(output, Value(len(self.steps)))
                with torch._C.DisableTorchFunction():
                    self.steps.append(Step(Called(name), self._noted(args), {}, _rows(output)))

        return hook

    def _know(self, tensor: Tensor, place: Value) -> None:
        self.places[id(tensor)] = place
        self.alive.append(tensor)

    def _noted(self, value: Any) -> Any:
        def note(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            place = self.places.get(id(leaf))
            return leaf.detach().clone() if place is None else place

        return mapped(note, value)

    def _overwritten(
        self, func: Any, place: int | str, tensor: Tensor, args: tuple, kwargs: dict
    ) -> None:
        """A changed tensor is a new value, also to those that share its memory."""
        step = len(self.steps)
        self.steps.append(Step(Overwriting(func, place), args, kwargs, _rows(tensor)))
        storage = _memory(tensor)
        self._know(tensor, Value(step))
        for other in list(self.alive):
            same = storage is not None and _memory(other) == storage
            if other is tensor or not same or id(other) not in self.places:
                continue
            if other.numel() == tensor.numel() and other.is_contiguous() and tensor.is_contiguous():
                self._know(other, Value(len(self.steps)))
                shape = tuple(other.shape)
                self.steps.append(Step(torch.reshape, (Value(step), shape), {}, _rows(other)))
            else:
                del self.places[id(other)]

    def _linear(self, func: Any, args: tuple, kwargs: dict) -> str | None:
        """Name of the ``nn.Linear`` whose weight and bias a call uses, if it is its product."""
        if func is not nn.functional.linear or len(args) < 2 or not isinstance(args[1], Named):
            return None
        owner, _, kind = args[1].name.rpartition(".")
        module = self.model.get_submodule(owner)
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        own = None if getattr(module, "bias", None) is None else f"{owner}.bias".lstrip(".")
        if kind != "weight" or not is_linear(module):
            return None
        return owner if (bias.name if isinstance(bias, Named) else bias) == own else None


def _inside(value: Any) -> bool:
    """Whether a value belongs to a function transform (vmap, grad) that is under way."""
    if not isinstance(value, Tensor):
        return False
    wrapped: bool = torch._C._functorch.is_functorch_wrapped_tensor(value)
    return wrapped


def _places(args: tuple, kwargs: dict) -> Iterator[tuple[int | str, Tensor]]:
    yield from ((i, a) for i, a in enumerate(args) if isinstance(a, Tensor))
    yield from ((k, a) for k, a in kwargs.items() if isinstance(a, Tensor))


def _plain(func: Any, args: tuple) -> tuple[Any, tuple]:
    """A property's getter as getattr, which can be copied; every other function as it is."""
    attribute = getattr(getattr(func, "__self__", None), "__name__", None)
    if getattr(func, "__name__", "") == "__get__" and attribute is not None:
        return getattr, (args[0], attribute)
    return func, args


def _memory(tensor: Tensor) -> int | None:
    """Where a tensor's numbers lie; None for one without memory of its own (sparse, meta)."""
    if tensor.layout != torch.strided or tensor.device.type == "meta" or not tensor.numel():
        return None
    return tensor.untyped_storage().data_ptr()


def _rows(tensor: Any) -> int:
    return len(tensor) if isinstance(tensor, Tensor) and tensor.dim() else 0
