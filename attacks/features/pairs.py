"""Which pair of linear layers of a model shows features of single images."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attacks.base import NotApplicable, Problem
from attacks.features.front import Front
from attacks.reading.inputs import drawing
from attacks.tensor.layers import LinearPair


def readable_pair(
    problem: Problem, pairs: Sequence[LinearPair], shape: tuple[int, ...]
) -> tuple[LinearPair, bool]:
    """First pair that sees vectors, one or several of each image, and identifies samples.

    Parameters
    ----------
    problem : Problem
        Holds model and gradient.
    pairs : sequence of LinearPair
        Of the model, in forward order.
    shape : tuple of int
        Of one image.

    Returns
    -------
    pair : LinearPair
    per_image : bool
        Whether it sees one vector of each image, not tokens.

    Raises
    ------
    NotApplicable
        If there is none.
    """
    dtype = next(problem.model.parameters()).dtype
    device = next(problem.model.parameters()).device
    probe = torch.zeros(2, *shape, dtype=dtype, device=device)
    for pair in pairs:
        with torch.no_grad():
            seen = Front(problem.model, pair.hidden, dtype)(probe)
        observed = all(
            f"{name}.weight" in problem.gradient for name in (pair.hidden, pair.outgoing)
        )
        curved = pair.activation.kind not in ("linear", "quadratic")
        if seen.dim() in (2, 3) and len(seen) == 2 and observed and curved:
            return pair, seen.dim() == 2
    raise NotApplicable(
        "The model has no Linear - elementwise activation - Linear, its parameters used once, that "
        "sees one vector per image or its tokens, so no features can be read exactly; a head with "
        "a hidden layer has one (model.depth=2)."
    )


def refuse_company(problem: Problem, pair: LinearPair, shape: tuple[int, ...], reason: str) -> None:
    """Refuse a front that takes no single image.

    Parameters
    ----------
    problem : Problem
        Holds the model.
    pair : LinearPair
        Behind the front.
    shape : tuple of int
        Of one image.
    reason : str
        Why what the pair sees is no function of one image.

    Raises
    ------
    NotApplicable
        With the reason.
    """
    try:
        with torch.no_grad():
            Front(problem.model, pair.hidden, torch.float64)(
                drawing(problem.model, shape)(1).double()
            )
    except Exception as error:  # the module's own code may raise anything
        raise NotApplicable(
            f"No image can be made of what {pair.hidden!r} sees: {reason}."
        ) from error
