"""The prediction in whatever a module returns: a tensor, a dictionary, a tuple, a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from attacks.errors import NotApplicable

NAMES = ("logits", "out", "output", "prediction", "predictions", "preds", "pred", "scores")
"""Entries or attributes that hold the prediction, the first that is there counts."""


def prediction(output: object) -> Tensor:
    """The tensor that the loss is taken of.

    Parameters
    ----------
    output : object
        A tensor; a mapping with an entry of `NAMES`, or one tensor only; an object with an
        attribute of `NAMES`; a tuple or list, whose first entry counts that is neither None nor, as
        a loss is, a scalar.

    Returns
    -------
    Tensor
        Of any shape.

    Raises
    ------
    NotApplicable
        If there is none; the message names the type.
    """
    if isinstance(output, Tensor):
        return output
    found: object = None
    if isinstance(output, Mapping):
        named = [output[name] for name in NAMES if name in output]
        tensors = [value for value in output.values() if isinstance(value, Tensor)]
        found = named[0] if named else tensors[0] if len(tensors) == 1 else None
    else:
        named = [getattr(output, name) for name in NAMES if hasattr(output, name)]
        if named:
            found = named[0]
        elif isinstance(output, Sequence):
            found = next((entry for entry in output if not _is_aside(entry)), None)
    if found is None or isinstance(found, str):
        raise NotApplicable(
            f"The model returns a {type(output).__name__} in which no prediction can be told."
        )
    return prediction(found)


def _is_aside(entry: object) -> bool:
    """Whether an entry of a tuple is none of an output's: nothing, or a loss."""
    return entry is None or (isinstance(entry, Tensor) and not entry.dim())
