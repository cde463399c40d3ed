"""Build what a configuration names with `_target_`, with errors that are one plain sentence."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import hydra.utils
from omegaconf import OmegaConf

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def instantiate(config: Mapping[str, Any], **given: Any) -> Any:
    """Call the class or function that `config._target_` names.

    The call itself is made outside Hydra, so that the errors of the target arrive as they are.

    Parameters
    ----------
    config : mapping
        Holds `_target_` and its settings; a `name` is for people and left out.
    **given
        Arguments that are not settings.

    Raises
    ------
    ValueError
        If there is no `_target_`, or it has no such setting.
    """
    is_config = OmegaConf.is_config(config)
    settings: Any = OmegaConf.to_container(config, resolve=True) if is_config else dict(config)
    settings.pop("name", None)
    if not (target := settings.get("_target_")):
        raise ValueError(f"A configuration lacks _target_: {settings}.")
    parameters = inspect.signature(hydra.utils.get_object(target)).parameters.values()
    allowed = [p.name for p in parameters if p.kind in _NAMED and p.name not in given]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unknown = [k for k in settings if not k.startswith("_") and k not in allowed]
    if unknown and not open_ended:
        raise ValueError(
            f"{target} has no setting {', '.join(map(repr, unknown))}; "
            f"it has {', '.join(allowed) or 'none'}."
        )
    factory = hydra.utils.instantiate({**settings, "_partial_": True, "_convert_": "all"})
    return factory(**given)
