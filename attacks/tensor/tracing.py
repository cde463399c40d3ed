"""What lies between the linear layers of a module, as a recorded forward pass shows it.

A layer's product feeds the next one's if everything computed from the first goes through the
second. That is read off the recording, and held against the module itself: with the second layer's
product held fixed, nothing the first one says may change the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.reading.conduct import Listening, same_values, weight_named
from attacks.reading.private import private_copy
from attacks.reading.randomness import kept_randomness
from attacks.reading.recording import Recording
from attacks.reading.refusals import shared
from attacks.reading.replay import Function, needed, part, reached
from attacks.reading.steps import Value

SEED = 0


@dataclass(frozen=True)
class Link:
    """Two consecutive linear layers, the function between them, and their places.

    Attributes
    ----------
    hidden, outgoing : str
        Names of the layers.
    between : callable
        From the first one's product to the second one's input.
    first : int
        The recording's step of the first product.
    at_input, at_output : bool
        Whether the first is handed the input and the second returns the output, in the recording.
    """

    hidden: str
    outgoing: str
    between: Function
    first: int
    at_input: bool
    at_output: bool


def linked_layers(recording: Recording) -> Iterator[Link]:
    """Linear layers of a recorded module, each with the next one it feeds, in forward order.

    Parameters
    ----------
    recording : Recording
        Of a private copy in evaluation mode; its code may be run again.

    Returns
    -------
    iterator of Link
        Layers whose parameters are used elsewhere too are left out.
    """
    uses, steps = recording.uses(), recording.steps
    linear = [n for n in recording.linear if not shared(uses, name_at(recording, n))]
    for first in linear:
        after = reached(recording, first)
        second = next((n for n in linear if n in after), None)
        if second is None or not _only_way(recording, first, second, after):
            continue
        source = steps[second].args[0]
        between = part(recording, first, source) if isinstance(source, Value) else None
        if between is None:
            continue
        yield Link(
            hidden=name_at(recording, first),
            outgoing=name_at(recording, second),
            between=between,
            first=first,
            at_input=same_values(recording.linear[first][0], recording.inputs),
            at_output=same_values(recording.linear[second][1], recording.returned),
        )


def name_at(recording: Recording, step: int) -> str:
    """Name of the linear layer of a step."""
    name = recording.steps[step].linear
    assert name is not None
    return name


def _only_way(recording: Recording, first: int, second: int, after: set[int]) -> bool:
    """Whether everything computed from `first` passes through `second` (no skip connection)."""
    beyond = reached(recording, second)
    between = after - beyond - {second}
    if recording.output is not None:
        ends = needed(recording, recording.output, second)
        if ends & (between | {first}):
            return False
    return _nothing_else(recording, name_at(recording, first), name_at(recording, second))


def _nothing_else(recording: Recording, hidden: str, outgoing: str) -> bool:
    """Whether the output stays the same whatever the first layer says, the second's word fixed."""
    model = private_copy(recording.model).eval()
    weights = {name: weight_named(model, name) for name in (hidden, outgoing)}
    plain = Listening(weights)
    outputs = []
    with torch.no_grad():
        with kept_randomness(SEED), plain:
            model(recording.inputs.clone())
        if set(plain.said) != set(weights):
            return False
        said = plain.said[hidden]
        for answer in (said, said.flip(0) * 1.5 + 0.25):
            held = {hidden: answer, outgoing: plain.said[outgoing]}
            with kept_randomness(SEED), Listening(weights, held):
                outputs.append(model(recording.inputs.clone()).clone())
    return same_values(*outputs)


def explains(recording: Recording, link: Link, draw: Callable[[int], Tensor]) -> bool:
    """Whether the function between two layers is what the module does on other inputs as well.

    A branch on the data is recorded as it was taken once.

    Parameters
    ----------
    recording : Recording
        Of a module.
    link : Link
        Of the recording.
    draw : callable int -> Tensor
        Makes that many inputs.

    Returns
    -------
    bool
    """
    model = private_copy(recording.model).eval()
    weights = {name: weight_named(model, name) for name in (link.hidden, link.outgoing)}
    x = draw(4)
    for inputs in (0.1 * x, 10 * x):
        listening = Listening(weights)
        with torch.no_grad(), kept_randomness(SEED), listening:
            model(inputs)
        if set(listening.said) != set(weights):
            return False
        try:
            with torch.no_grad(), kept_randomness(SEED):
                made = link.between(listening.said[link.hidden])
        except Exception:  # what was recorded for one batch size need not run for another
            return False
        seen = listening.heard[link.outgoing]
        if made.numel() != seen.numel():
            return False
        if not torch.allclose(made.flatten(), seen.flatten(), rtol=1e-4, atol=1e-6, equal_nan=True):
            return False
    return True
