"""Defences: what a client may do to its training and its update. They compose, in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fl_sim.defenses.base import Cohort, Defense, Step, defend
from fl_sim.defenses.central_dp import CentralDp
from fl_sim.defenses.clip import Clip
from fl_sim.defenses.dp_sgd import DpSgd
from fl_sim.defenses.dropout import Dropout
from fl_sim.defenses.gaussian_noise import GaussianNoise
from fl_sim.defenses.labels import LabelNoise, LabelSmoothing
from fl_sim.defenses.local_dp import LocalDp
from fl_sim.defenses.mixup import Mixup
from fl_sim.defenses.prune import Prune
from fl_sim.defenses.quantize import Quantize
from fl_sim.defenses.sign import Sign
from fl_sim.defenses.soteria import Soteria
from fl_sim.instantiate import instantiate

__all__ = [
    "CentralDp",
    "Clip",
    "Cohort",
    "Defense",
    "DpSgd",
    "Dropout",
    "GaussianNoise",
    "LabelNoise",
    "LabelSmoothing",
    "LocalDp",
    "Mixup",
    "Prune",
    "Quantize",
    "Sign",
    "Soteria",
    "Step",
    "build_defenses",
    "defend",
]


def build_defenses(config: Mapping[str, Any]) -> list[Defense]:
    """Build the defences of a scenario, in its order.

    Parameters
    ----------
    config : mapping
        From names to a `_target_` with its settings.

    Raises
    ------
    ValueError
        If a defence has no such setting or refuses its value.
    """
    return [instantiate(settings) for settings in config.values()]
