"""A network without its kinks: every corner of an activation rounded, every maximum made soft.

Inside the context `Smoothed(width)` whatever a module calls passes by here first. A function of one
tensor that turns out, when probed, to be elementwise with kinks is corrected at each of them,

    s(z) + sum_k jump_k (t softplus((z - kink_k) / t) - max(z - kink_k, 0)),      t = width,

which makes t softplus(z / t) of max(z, 0); and the maximum over a pooling window w becomes
sum softmax(w / t) w. With t -> 0 both return to the true network. It does not matter whether the
module calls a layer, a function or a method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attacks.tensor.activation import Activation, probe

Key = tuple[Any, str]


class Smoothed(TorchFunctionMode):
    """Context in which kinked activations and max-pooling are smoothed.

    Not to be entered inside `torch.func` transforms, which probing does not get along with.

    Parameters
    ----------
    width : float
        Of the smoothing, in units of the activations; zero leaves the network as it is, and only
        counts what would be smoothed.

    Attributes
    ----------
    kinks : int
        Number of calls, so far, of functions with kinks, pooling included.
    """

    known: dict[Key, Activation | None] = {}  # noqa: RUF012 - shared: probing is slow

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width
        self.kinks = 0

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in POOLS:
            self.kinks += 1
            return POOLS[func](self.width, *args, **kwargs) if self.width else func(*args, **kwargs)
        activation = self._activation(func, args, kwargs)
        if activation is None or not len(activation.kinks):
            return func(*args, **kwargs)
        self.kinks += 1
        if not self.width:
            return func(*args, **kwargs)
        z = args[0].clone()  # the call may write into its argument
        correction = torch.zeros_like(z)
        for kink, jump in zip(activation.kinks.tolist(), activation.jumps.tolist(), strict=True):
            t = z - kink
            soft = self.width * nn.functional.softplus(t / self.width)
            correction = correction + jump * (soft - t.clamp_min(0))
        return func(*args, **kwargs) + correction

    def _activation(self, func: Callable, args: tuple, kwargs: dict) -> Activation | None:
        """The function as an activation, if it is one: a float tensor in, the same shape out."""
        if not args or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
            return None
        constants = (*args[1:], *kwargs.values())
        if any(isinstance(c, Tensor | list | tuple | dict) for c in constants):
            return None
        key = (func, repr((args[1:], kwargs)))
        if key not in self.known:
            self.known[key] = _probed(lambda z: func(z.clone(), *args[1:], **kwargs))
        return self.known[key]


def _probed(function: Callable[[Tensor], Tensor]) -> Activation | None:
    """The probed function, or None if it does not act on each entry alone."""
    count = torch.arange(3 * 4 * 8 * 8)
    z = (3 * torch.sin(2.7 * count.double())).reshape(3, 4, 8, 8)
    order = 385 * count % len(count)  # a permutation: 385 and 768 have no common divisor
    try:
        with torch.no_grad():
            straight = function(z)
            shuffled = function(z.flatten()[order].reshape(z.shape))
        same = straight.shape == z.shape and torch.allclose(
            straight.flatten()[order], shuffled.flatten(), rtol=1e-9, atol=1e-12
        )
        return probe(function) if same else None
    except Exception:  # any function may be called here, most of them no activations
        return None


def soft_max_pool(
    width: float,
    x: Tensor,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """Two-dimensional max-pooling with sum softmax(w / width) w in place of max w.

    Parameters
    ----------
    width : float
        Positive.
    x : Tensor of shape (..., H, W)

    Other parameters as for ``torch.nn.functional.max_pool2d``.

    Returns
    -------
    Tensor
        Of the shape that max-pooling returns; never with indices.
    """
    kernel, pad, gap = _two(kernel_size), _two(padding), _two(dilation)
    step = _two(stride) if stride is not None and stride != [] else kernel
    sides, extra = [], []
    for n, k, s, p, d in zip(x.shape[-2:], kernel, step, pad, gap, strict=True):
        span = d * (k - 1) + 1
        room = n + 2 * p - span
        count = (-(-room // s) if ceil_mode else room // s) + 1
        if ceil_mode and (count - 1) * s >= n + p:  # a window must begin inside the input
            count -= 1
        sides.append(count)
        extra.append(max(0, (count - 1) * s + span - n - p))
    if any(pad) or any(extra):
        far = float(x.detach().abs().max()) + 1e3 * width  # finite: its weight is zero, not NaN
        x = nn.functional.pad(x, (pad[1], extra[1], pad[0], extra[0]), value=-far)
    (rows, columns), (down, right) = sides, step
    windows = torch.stack(
        [
            x[..., i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * right + 1 : right]
            for i in range(0, kernel[0] * gap[0], gap[0])
            for j in range(0, kernel[1] * gap[1], gap[1])
        ]
    )
    return ((windows / width).softmax(0) * windows).sum(0)


def _two(value: Any) -> tuple[int, int]:
    first, *rest = value if isinstance(value, list | tuple) else (value,)
    return (int(first), int(rest[0] if rest else first))


POOLS: dict[Any, Callable[..., Tensor]] = {
    torch.max_pool2d: soft_max_pool,
    nn.functional.max_pool2d: soft_max_pool,
}
"""Pooling functions and their soft counterparts."""
