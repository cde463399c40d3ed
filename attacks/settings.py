"""Hyperparameters, checked where an attack is made: one sentence that names the value.

A count that is zero, a step size below zero or a flag that is a word makes no error when it is
stored, and much later either none at all or one about something else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


def count(name: str, value: Any, least: int = 1) -> int:
    """A whole number.

    Parameters
    ----------
    name : str
        What it is called.
    value : object
        An integer of Python or NumPy; a float that is one, too.
    least : int, default 1
        The lowest that makes sense.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If it is no whole number, or lower; the message names it.
    """
    whole = isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or value < least:
        raise ValueError(f"{name}={value!r} is no whole number of at least {least}.")
    return int(value)


def positive(name: str, value: Any) -> float:
    """A finite number above zero.

    Raises
    ------
    ValueError
        If it is none; the message names it.
    """
    if not (_is_number(value) and value > 0):
        raise ValueError(f"{name}={value!r} is no finite number above 0.")
    return float(value)


def weight(name: str, value: Any) -> float:
    """A finite number of at least zero.

    Raises
    ------
    ValueError
        If it is none; the message names it.
    """
    if not (_is_number(value) and value >= 0):
        raise ValueError(f"{name}={value!r} is no finite number of at least 0.")
    return float(value)


def number(name: str, value: Any) -> float:
    """A finite number.

    Raises
    ------
    ValueError
        If it is none; the message names it.
    """
    if not _is_number(value):
        raise ValueError(f"{name}={value!r} is no finite number.")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """True or False, and no word or number for it.

    Raises
    ------
    ValueError
        If it is neither; the message names it.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} is neither True nor False.")
    return value


def listed(name: str, value: Any) -> tuple[Any, ...]:
    """A sequence that holds something, as a tuple.

    Raises
    ------
    ValueError
        If it is none, or empty; the message names it.
    """
    if isinstance(value, str) or not isinstance(value, Iterable) or not (items := tuple(value)):
        raise ValueError(f"{name}={value!r} is no sequence of at least one number.")
    return items


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
