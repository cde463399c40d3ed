"""`load_data`: the images a scenario names, read once per process.

Client processes of a parallel backend ask for them again and again; the last few answers are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from omegaconf import OmegaConf

from fl_sim.data.images import ImageData
from fl_sim.instantiate import instantiate


def load_data(config: Mapping[str, Any]) -> ImageData:
    """Return the images of a scenario.

    Parameters
    ----------
    config : mapping
        The scenario's node `data`, as an omegaconf node or resolved into a plain mapping; its
        `source` names a function returning an `ImageData`.

    Raises
    ------
    ValueError
        If the images cannot be had; one sentence says why.
    """
    source: Any = config["source"]
    if OmegaConf.is_config(source):
        source = OmegaConf.to_container(source, resolve=True)
    return _load(json.dumps(source, sort_keys=True))


@lru_cache(maxsize=4)
def _load(source: str) -> ImageData:
    data = instantiate(json.loads(source))
    if not isinstance(data, ImageData):
        raise ValueError(f"data.source={source} gave {type(data).__name__}, not ImageData.")
    return data
