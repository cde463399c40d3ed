"""Any elementwise activation of torch.nn by its lower-case name, found by asking torch itself.

Nothing is keyed on a name: a module of `torch.nn.modules.activation` qualifies if it can be made
without arguments and a probe shows that it acts on each element alone.
"""

from __future__ import annotations

import difflib
import warnings
from functools import cache

import torch
from torch import nn
from torch.nn.modules import activation as torch_activations


def make_activation(name: str) -> nn.Module:
    """Return a new activation with torch's default settings.

    Parameters
    ----------
    name : str
        Lower-case name of the class in torch.nn, with or without underscores: "relu",
        "leaky_relu", "logsigmoid", ...

    Raises
    ------
    ValueError
        If there is no such activation or it is not elementwise; names close ones.
    """
    key = _key(name)
    found = _classes().get(key)
    if found is not None and (module := _elementwise(found)) is not None:
        return module
    names = activation_names()
    close = difflib.get_close_matches(key, names, n=3, cutoff=0.5) or names
    fault = "is unknown" if found is None else "is not elementwise"
    raise ValueError(f"model.activation={name!r} {fault}; there is {', '.join(close)}.")


@cache
def activation_names() -> list[str]:
    """Lower-case class names of all activations that `make_activation` accepts."""
    return sorted(key for key, cls in _classes().items() if _elementwise(cls) is not None)


def _key(name: object) -> str:
    return str(name).lower().replace("_", "")


@cache
def _classes() -> dict[str, type[nn.Module]]:
    candidates = [*vars(torch_activations).values(), nn.Identity]
    return {
        c.__name__.lower(): c
        for c in candidates
        if isinstance(c, type) and issubclass(c, nn.Module) and c is not nn.Module
    }


def _elementwise(cls: type[nn.Module]) -> nn.Module | None:
    """Return an instance if it acts on each element alone, always alike; None otherwise."""
    try:
        module = cls()
    except TypeError:  # needs arguments
        return None
    probe = torch.linspace(-3, 3, 32).reshape(2, 4, 2, 2)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # softmax guesses its dimension
        together = module(probe)
        alone = [module(x.expand(2, 2, 2, 2)).flatten()[0] for x in probe.flatten()]
    same = together.shape == probe.shape and torch.allclose(
        together.flatten(), torch.stack(alone), atol=1e-6
    )
    return module if same else None
