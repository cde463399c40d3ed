"""A class of the user's in the place of one of the zoo: ``model._target_=my.Net``.

The group that was chosen (mlp, unless the command says otherwise) leaves settings behind that were
meant for its own class. What the user's class does not take of them is dropped, so long as it is
what the group says; a value that was typed stays, and is refused like any unknown setting.
"""

from __future__ import annotations

import copy
from typing import Any

import yaml
from omegaconf import OmegaConf

from fl_sim.config import ScenarioConfig
from fl_sim.instantiate import load, takes
from fl_sim.places import config_folder


def settled(config: ScenarioConfig) -> ScenarioConfig:
    """Return a scenario whose model has no settings left over from a class it does not use.

    Parameters
    ----------
    config : ScenarioConfig
        Returned as it is where its model is the one its group names.

    Raises
    ------
    ValueError
        If the class cannot be loaded.
    """
    model: Any = OmegaConf.to_container(config.model, resolve=True)
    groups = {path.stem: path for path in (config_folder() / "model").glob("*.yaml")}
    if model.get("name") not in groups:
        return config
    defaults = yaml.safe_load(groups[model["name"]].read_text())
    if model.get("_target_") == defaults["_target_"]:
        return config
    target = load(str(model.get("_target_")), "model")
    kept = {
        key: value
        for key, value in model.items()
        if key.startswith("_") or value != defaults.get(key) or takes(target, key)
    }
    made = copy.deepcopy(config)
    made.model = {**kept, "name": getattr(target, "__name__", "model")}
    return made
