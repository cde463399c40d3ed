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
    except (Exception, SystemExit) as error:
        raise ValueError(f"{named} cannot be loaded: {_reason(target, error)}.") from error
    if not callable(found):
        raise ValueError(f"{named} is neither a class nor a function.")
    return found


def _reason(target: str, error: BaseException) -> str:
    """Return why a dotted name could not be loaded, without a full stop."""
    module, *names = target.split(".")
    if "/" in target or ":" in target or names == ["py"]:
        return "it has to be a dotted name: Net in a file nets.py of this folder is nets.Net"
    cause = error.__cause__ or error
    if isinstance(cause, ModuleNotFoundError) and cause.name == module:
        return f"there is no module {module!r}, neither installed nor in this folder"
    for place, name in enumerate(names):
        parent = ".".join([module, *names[:place]])
        of_class = isinstance(cause, AttributeError) and cause.name == name
        of_module = isinstance(cause, ModuleNotFoundError) and cause.name == f"{parent}.{name}"
        if of_class or of_module:
            return f"{parent!r} has no {name!r}"
    told = " ".join(str(cause).split()).rstrip(".")
    return f"its import ends with {type(cause).__name__}: {told}"


def _parameters(target: Any) -> list[inspect.Parameter]:
    """Return the arguments of a class or function.

    A class with no constructor but that of torch.nn.Module, which takes any and refuses all, has
    none.
    """
    constructor = getattr(target, "__init__", None) if inspect.isclass(target) else None
    if getattr(constructor, "__module__", None) == "torch.nn.modules.module":
        return []
    return list(inspect.signature(target).parameters.values())


def takes(target: Any, name: str) -> bool:
    """Tell whether a class or function has an argument of this name, or takes any."""
    parameters = _parameters(target)
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
    parameters = _parameters(load(target))
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
