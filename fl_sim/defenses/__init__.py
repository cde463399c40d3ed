"""Defences: what a client may do to its gradient before sending it. They compose, in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fl_sim.defenses.base import Defense, defend
from fl_sim.defenses.clip import Clip
from fl_sim.defenses.gaussian_noise import GaussianNoise
from fl_sim.instantiate import instantiate

__all__ = ["Clip", "Defense", "GaussianNoise", "build_defenses", "defend"]


def build_defenses(config: Mapping[str, Any]) -> list[Defense]:
    """Build the defences of a scenario, a mapping from name to `_target_`, in its order."""
    return [instantiate(settings) for settings in config.values()]
