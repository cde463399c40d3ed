"""What refusals and reasons claim, held against what is true of an instance.

An attack that cannot read a model says why in one sentence, and people act on it. So the sentences
of the attacks here are listed with the fact they state; a sentence that none of the patterns knows
is not judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from attacks.testing.instance import Instance

Fact = Callable[[Instance], bool]

CLAIMS: tuple[tuple[str, Fact], ...] = (
    (r"not surely the model's input", lambda i: i.front in ("lively", "random", "company")),
    (r"in training mode .* changes", lambda i: i.front == "lively"),
    (r"drawn at random", lambda i: i.front == "random"),
    (r"depends on the others'", lambda i: i.front == "company"),
    (r"not handed the input itself|is handed the input itself\.$", lambda i: _hidden(i)),
    (r"does not begin with a linear layer", lambda i: _hidden(i)),
    (
        r"has no Linear - elementwise activation - Linear",
        lambda i: i.shared or not (i.pair and i.plain),
    ),
    (r"does not stand an elementwise activation", lambda i: not (i.pair and i.plain)),
    (r"used more than once", lambda i: i.shared),
    (r"No nn\.Linear takes part", lambda i: not i.plain),
    (r"computes its weight from", lambda i: not i.plain),
    (r"cannot be copied|does not accept inputs", lambda i: False),
    (r"batch exceeds the layer|gradient vanishes", lambda i: False),
)
"""Pattern of a sentence, and when it is true."""


def _hidden(instance: Instance) -> bool:
    return instance.front != "none" or not instance.plain


def untrue(sentence: str, instance: Instance) -> str | None:
    """The first pattern of `CLAIMS` that a sentence matches although the fact is none.

    Parameters
    ----------
    sentence : str
        Of a refusal, or a reason for finding little.
    instance : Instance
        What it is said of.

    Returns
    -------
    str or None
    """
    for pattern, fact in CLAIMS:
        if re.search(pattern, sentence) and not fact(instance):
            return pattern
    return None
