"""Running somebody else's code inside a server round: in bounded time, and without a trace.

`with_timeout` interrupts a Python function from outside by raising `attacks.Interrupted` in its
thread, which works on every backend (signals reach the main thread only) and lets an attack return
what it has so far. `untouched_randomness` puts the global random states back, so that an attack
cannot change a bit of the training.
"""

from __future__ import annotations

import ctypes
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

from attacks.base import Interrupted

T = TypeVar("T")

GRACE = 10.0
"""Seconds an interrupted function gets to return what it has."""


class TimedOut(TimeoutError):
    """The function returned nothing, not even after the interruption."""


class Stopped(KeyboardInterrupt):
    """The user interrupted.

    Parameters
    ----------
    result : object
        What the function returned then, or None.
    """

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


def with_timeout(function: Callable[[], T], seconds: float | None) -> tuple[T, bool]:
    """Call a function in a thread of its own and interrupt it when its time is up.

    Parameters
    ----------
    function : callable without arguments
        May catch `KeyboardInterrupt` and return a partial result.
    seconds : float, optional
        Time limit, positive; None for no limit.

    Returns
    -------
    result : whatever the function returned
    interrupted : bool
        Whether it had been interrupted before.

    Raises
    ------
    TimedOut
        If the function did not return a result when interrupted.
    Stopped
        If the user interrupted; holds what the function had by then.
    """
    outcome: dict[str, Any] = {}

    def call() -> None:
        try:
            outcome["result"] = function()
        except BaseException as error:  # handed to the waiting thread below
            outcome["error"] = error
        finally:
            ended.set()

    # an event, since a join that Ctrl-C breaks takes the thread for dead (before Python 3.13)
    ended = threading.Event()
    thread = threading.Thread(target=call, name="attack", daemon=True)
    try:
        thread.start()
        interrupted = not ended.wait(seconds)
    except KeyboardInterrupt as stop:
        _interrupt(thread, ended)
        raise Stopped(outcome.get("result")) from stop
    if interrupted:
        _interrupt(thread, ended)
    if "result" in outcome:
        return outcome["result"], interrupted
    error = outcome.get("error")
    if interrupted and (error is None or isinstance(error, Interrupted)):
        raise TimedOut(f"stopped after {seconds:g} s without a result")
    raise error if error is not None else RuntimeError("The function ended without a result.")


def _interrupt(thread: threading.Thread, ended: threading.Event) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Interrupted)
    )
    ended.wait(GRACE)


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """Restore the global generators of torch, numpy and random afterwards."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
