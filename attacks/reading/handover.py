"""Gradients and grants as people have them, brought to one form.

Gradients come as lists in the order of the parameters, as NumPy arrays, with None for parameters
that took no part, sparse, for frozen parameters too, and under the names a wrapper gives. What
cannot be meant is refused in one sentence that names it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PREFIXES = (
    "module", "_orig_mod", "model", "_forward_module", "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
)  # fmt: skip
"""Components that wrappers (DataParallel, compile, Lightning, DeepSpeed, FSDP) put into names."""


def named_gradient(model: nn.Module, gradient: Any) -> dict[str, Tensor]:
    """A gradient as a dictionary over the parameters of a bare model.

    Parameters
    ----------
    model : nn.Module
        Its ``named_parameters`` say which names and shapes are expected. Those that require no
        gradient may be there or not.
    gradient : mapping from parameter name to array, or iterable of arrays
        Tensors or NumPy arrays; an iterable is in the order of ``model.parameters()``, all of them
        or those that require a gradient. None stands for a parameter without one, which is left
        out.

    Returns
    -------
    dict from parameter name to Tensor
        Dense and detached, in the model's order.

    Raises
    ------
    ValueError
        If a name is missing or unexpected, a shape is wrong, a number is NaN or infinite, or an
        entry is no array of floats; the message names the parameter.
    """
    shaped = dict(model.named_parameters())
    lazy = [n for n, p in shaped.items() if isinstance(p, nn.parameter.UninitializedParameter)]
    if away := [n for n, p in shaped.items() if p.is_meta and n not in lazy]:
        raise ValueError(f"The model's {away[0]!r} is on the meta device, where it has no values.")
    if lazy:
        raise ValueError(f"{lazy[0]!r} has no shape yet: run the model once, it holds lazy layers.")
    given = _by_name(model, gradient)
    needed = [name for name, p in shaped.items() if p.requires_grad]
    if missing := [name for name in needed if name not in given]:
        raise ValueError(f"The gradient lacks {', '.join(map(repr, missing))}.")
    buffers = dict(model.named_buffers())
    if extra := [str(name) for name in given if name not in shaped and name not in buffers]:
        raise ValueError(f"The gradient has {', '.join(map(repr, extra))}, unknown to the model.")
    present = {name: given[name] for name in shaped if given.get(name) is not None}
    return {name: _checked(name, value, shaped[name]) for name, value in present.items()}


def _by_name(model: nn.Module, gradient: Any) -> dict[str, Any]:
    if isinstance(gradient, Mapping):
        return _renamed(model, dict(gradient))
    if isinstance(gradient, Tensor | np.ndarray | str) or not isinstance(gradient, Iterable):
        raise ValueError(
            f"gradient is a {type(gradient).__name__}, not a mapping from names to tensors or a "
            "list in the order of model.parameters()."
        )
    listed = list(gradient)
    if listed and all(isinstance(e, tuple) and e and isinstance(e[0], str) for e in listed):
        return _renamed(model, dict(listed))
    every = [name for name, _ in model.named_parameters()]
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    names = next((n for n in (trained, every) if len(n) == len(listed)), None)
    if names is None:
        raise ValueError(
            f"The gradient lists {len(listed)} tensors; the model has {len(every)} parameters, "
            f"{len(trained)} of which require a gradient."
        )
    return dict(zip(names, listed, strict=True))


def _renamed(model: nn.Module, gradient: dict[Any, Any]) -> dict[str, Any]:
    """Entries under the model's own names: less wrappers' components, and aliases' as the first."""
    first = {id(p): name for name, p in model.named_parameters()}
    alias = {n: first[id(p)] for n, p in model.named_parameters(remove_duplicate=False)}
    bare: dict[str, list[str]] = {}
    for name in alias:
        bare.setdefault(_bare(name), []).append(name)
    named: dict[str, Any] = {}
    common = _common_prefix([str(key) for key in gradient])
    for key, value in gradient.items():
        name = str(key)
        if name not in alias and len(bare.get(_bare(name), [])) == 1:
            name = bare[_bare(name)][0]
        if name not in alias and common and name.removeprefix(common) in alias:
            name = name.removeprefix(common)
        name = alias.get(name, name)
        if name in named and not _equal(named[name], value):
            raise ValueError(
                f"The gradient of {name!r} is there twice, and not the same: tied parameters have "
                "one gradient, the sum over all uses."
            )
        named[name] = value
    return named


def _common_prefix(names: list[str]) -> str:
    """What all names begin with, whole components, each with its dot; "" if there is nothing."""
    if not names:
        return ""
    columns = list(zip(*(name.split(".")[:-1] for name in names), strict=False))
    same = 0
    while same < len(columns) and len(set(columns[same])) == 1:
        same += 1
    return "".join(f"{column[0]}." for column in columns[:same])


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in PREFIXES)


def _equal(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(_tensor(a).numpy(force=True), _tensor(b).numpy(force=True))


def _tensor(value: Any) -> Tensor:
    tensor = value if isinstance(value, Tensor) else _from_numpy(value)
    if tensor.is_floating_point() and tensor.element_size() == 1:
        tensor = tensor.float()  # the eighth-bit types have hardly any function of their own
    return (tensor if tensor.layout == torch.strided else tensor.to_dense()).detach()


def _from_numpy(value: Any) -> Tensor:
    """An array of any byte order, stride or float size as a tensor."""
    array = np.asarray(value)
    if array.dtype.kind == "f":
        size = min(array.dtype.itemsize, 8)
        array = np.ascontiguousarray(array, dtype=np.dtype(f"f{size}"))
    return torch.as_tensor(array)


def _checked(name: str, value: Any, parameter: Tensor) -> Tensor:
    try:
        tensor = _tensor(value)
    except (TypeError, ValueError, RuntimeError) as reason:
        raise ValueError(
            f"The gradient of {name!r} is a {type(value).__name__}, not an array of floats."
        ) from reason
    if tensor.shape != parameter.shape:
        raise ValueError(
            f"The gradient of {name!r} has shape {tuple(tensor.shape)}, "
            f"the parameter {tuple(parameter.shape)}."
        )
    if not tensor.is_floating_point():
        raise ValueError(f"The gradient of {name!r} has dtype {tensor.dtype}, not a float type.")
    if tensor.is_meta:
        raise ValueError(f"The gradient of {name!r} is on the meta device, where it has no values.")
    if not torch.isfinite(tensor).all():
        kind = "NaN" if torch.isnan(tensor).any() else "infinite values"
        raise ValueError(f"The gradient of {name!r} contains {kind}.")
    return tensor


def whole_number(name: str, value: Any) -> int:
    """A grant that counts something.

    Raises
    ------
    ValueError
        If it is no whole number of at least 1; the message names both.
    """
    whole = not isinstance(value, bool) and isinstance(value, int | np.integer | float | Tensor)
    if not whole or not math.isfinite(float(value)) or float(value) != int(value) or value < 1:
        raise ValueError(f"{name}={value!r} is no whole number of at least 1.")
    return int(value)


def label_tensor(labels: Any) -> Tensor:
    """Granted labels as a tensor: class indices as int64, anything else in its own float type.

    Raises
    ------
    ValueError
        If they are no array of numbers, or none at all.
    """
    try:
        tensor = labels if isinstance(labels, Tensor) else torch.as_tensor(np.asarray(labels))
    except (TypeError, ValueError, RuntimeError) as reason:
        raise ValueError(f"labels={labels!r} is no array of numbers.") from reason
    if tensor.dim() == 0 or not len(tensor):
        raise ValueError(f"labels={labels!r} holds no labels.")
    return tensor.detach() if tensor.is_floating_point() else tensor.detach().long()


def ordered_range(data_range: Any) -> tuple[Any, Any]:
    """A granted range of the data.

    Raises
    ------
    ValueError
        If it is no pair, or its lowest value exceeds its highest somewhere.
    """
    try:
        low, high = data_range
        below = bool((torch.as_tensor(low).cpu() < torch.as_tensor(high).cpu()).all())
    except (TypeError, ValueError, RuntimeError) as reason:
        raise ValueError(f"data_range={data_range!r} is no pair (lowest, highest).") from reason
    if not below:
        raise ValueError(f"data_range={data_range!r} is not in the order (lowest, highest).")
    return low, high
