"""What attacks raise besides Python's own exceptions."""

from __future__ import annotations


class NotApplicable(ValueError):
    """The attack cannot read this model or gradient; the message says why in one sentence."""


class Interrupted(KeyboardInterrupt):
    """Raised inside a running attack that is out of time.

    An attack that can return something useful catches `KeyboardInterrupt`, and with it this, and
    returns what it has with ``info["interrupted"] = True``.
    """
