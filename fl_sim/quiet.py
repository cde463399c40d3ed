"""Other libraries' talk of themselves is kept off the terminal; warnings of what is done stay."""

from __future__ import annotations

import logging
import warnings

TORCHSCRIPT = r"`torch\.jit\.script` is (deprecated|not supported)"
"""Begins a warning that PyTorch gives of itself: its forward-mode derivatives are scripted."""


def quiet_torchscript() -> None:
    """Hide the warning that PyTorch is to do without TorchScript, which no user can act upon."""
    warnings.filterwarnings("ignore", TORCHSCRIPT, FutureWarning, module=r"torch\.jit\._script")


def quiet_libraries() -> None:
    """Keep other libraries' progress lines off the terminal; warnings stay."""
    quiet_torchscript()
    import flwr.supercore  # noqa: F401 - sets its handlers up when imported

    flower = logging.getLogger("flwr")
    flower.handlers.clear()
    flower.setLevel(logging.ERROR)
    flower.propagate = False
    logging.getLogger("strategies").setLevel(logging.ERROR)  # what it warns of is in the rows
