"""Attacks on updates of several local steps."""

from attacks.updates.attack import UpdateTensorAttack

__all__ = ["UpdateTensorAttack"]
