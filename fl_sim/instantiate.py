"""Build what a configuration names with `_target_`, with errors that are one plain sentence."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import hydra.utils
from hydra._internal.utils import _locate  # hydra.utils.get_object also logs what it raises
from omegaconf import OmegaConf

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def load(target: str, key: str = "") -> Any:
    """Return the class or function of a dotted name.

    Parameters
    ----------
    target : str
        Its module and name.
    key : str, default ""
        Where a scenario names it, e.g. "model".

    Raises
    ------
    ValueError
        If there is no such thing, or its module does not load.
    """
    named = f"{key}._target_={target}".lstrip(".")
    try:
        found = _locate(target)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if not line.startswith("Error loading")]
        raise ValueError(f"{named} cannot be loaded: {' '.join(lines)}") from error
    if not callable(found):
        raise ValueError(f"{named} is neither a class nor a function.")
    return found


def takes(target: Any, name: str) -> bool:
    """Tell whether a class or function has an argument of this name, or takes any."""
    parameters = inspect.signature(target).parameters.values()
    return any(p.kind is p.VAR_KEYWORD or (p.name == name and p.kind in _NAMED) for p in parameters)


def accepted(target: Any, **given: Any) -> dict[str, Any]:
    """Return those of the arguments that a class or function takes."""
    return {name: value for name, value in given.items() if takes(target, name)}


def instantiate(config: Mapping[str, Any], **given: Any) -> Any:
    """Call the class or function that `config._target_` names.

    The call itself is made outside Hydra, so that the errors of the target arrive as they are.

    Parameters
    ----------
    config : mapping
        Holds `_target_` and its settings; a `name` is for people and left out. A setting that
        holds a `_target_` itself is built first.
    **given
        Arguments that are not settings.

    Returns
    -------
    object
        What the target returns.

    Raises
    ------
    ValueError
        If there is no `_target_`, it has no such setting, or it needs one that is not there;
        besides, whatever the target raises.
    """
    is_config = OmegaConf.is_config(config)
    settings: Any = OmegaConf.to_container(config, resolve=True) if is_config else dict(config)
    settings.pop("name", None)
    if not (target := settings.get("_target_")):
        raise ValueError(f"A configuration lacks _target_: {settings}.")
    parameters = inspect.signature(load(target)).parameters.values()
    allowed = [p.name for p in parameters if p.kind in _NAMED and p.name not in given]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unknown = [k for k in settings if not k.startswith("_") and k not in allowed]
    if unknown and not open_ended:
        raise ValueError(
            f"{target} has no setting {', '.join(map(repr, unknown))}; "
            f"it has {', '.join(allowed) or 'none'}."
        )
    needed = [p.name for p in parameters if p.kind in _NAMED and p.default is p.empty]
    if missing := [name for name in needed if name not in {*settings, *given}]:
        raise ValueError(f"{target} needs the setting {', '.join(map(repr, missing))}.")
    parts = {k: instantiate(v) for k, v in settings.items() if _is_target(v)}
    plain = {k: v for k, v in settings.items() if k not in parts}
    factory = hydra.utils.instantiate({**plain, "_partial_": True, "_convert_": "all"})
    return factory(**parts, **given)


def _is_target(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value
