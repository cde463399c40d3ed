"""Models that can be differentiated twice: equal formulas where a fused kernel cannot.

An attack that matches gradients differentiates the client's gradient by its inputs, which is a
second derivative of the model. PyTorch has none for some kernels: fused attention, the hard
sigmoid, margin losses, recurrent layers of cuDNN. Inside `differentiable_twice` each of these is
computed by a formula or kernel that is equal and has one, however the model calls it. What remains
is found by `attacks.reading.once`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import (
    hardsigmoid,
    multi_margin_loss,
    multilabel_margin_loss,
    one_hot,
    relu,
    relu6,
)
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Compute inside the block with what has a second derivative.

    Forward pass and loss belong inside, their derivatives need not be. A block inside another costs
    nothing.
    """
    if _inside.get():
        yield
        return
    token = _inside.set(True)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), _EqualFormulas(), _nothing_recomputed():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        _inside.reset(token)


_inside: ContextVar[bool] = ContextVar("inside differentiable_twice", default=False)


@contextmanager
def _nothing_recomputed() -> Iterator[None]:
    """Call what is checkpointed as it is.

    A reentrant checkpoint's parameters get derivatives from ``backward`` alone, zeros from
    ``torch.autograd.grad``; the other kind is computed again outside the block, by other formulas.
    """
    kind = checkpoint.CheckpointFunction
    reentrant = vars(kind).get("apply")
    others = {name: value for name, value in vars(checkpoint).items() if name.startswith(OTHER)}
    kind.apply = staticmethod(_as_it_is)  # type: ignore[method-assign, assignment]
    vars(checkpoint).update(dict.fromkeys(others, _nothing_kept))
    try:
        yield
    finally:
        vars(checkpoint).update(others)
        if reentrant is None:
            del kind.apply
        else:
            kind.apply = reentrant  # type: ignore[method-assign]


OTHER = "_checkpoint_without_reentrant_generator"
"""What PyTorch calls, by version, the function that prepares a checkpoint that is not reentrant."""


def _as_it_is(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
    return function(*args)


def _nothing_kept(*args: Any, **kwargs: Any) -> Iterator[None]:
    """In place of what saves inputs before a function is called, and forgets what it saves."""
    yield


def twice_differentiable(model: nn.Module) -> nn.Module:
    """Make every call of a module happen inside `differentiable_twice`.

    Parameters
    ----------
    model : nn.Module
        Changed in place, so a private copy; a scripted module, whose calls cannot be changed, is
        left as it is.

    Returns
    -------
    nn.Module
        The module itself.
    """
    if not isinstance(model, _Twice | torch.jit.ScriptModule):
        kind = type(model)
        model.__class__ = type(f"Twice{kind.__name__}", (_Twice, kind), {})
    return model


class _Twice:
    """What a twice differentiable module's class adds."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own."""
        with differentiable_twice():
            return super().forward(*args, **kwargs)  # type: ignore[misc]


class _EqualFormulas(TorchFunctionMode):
    """Calls of functions without a second derivative become calls of equal ones that have one."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func in RECURRENT:
            with torch.backends.cudnn.flags(enabled=False):
                return func(*args, **(kwargs or {}))
        return EQUAL.get(func, func)(*args, **(kwargs or {}))


def hard_sigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x + 3, 0), 6) / 6, as ``F.hardsigmoid``, whose kernel rounds 1 / 6 to float32."""
    value = relu6(input + 3) / 6
    return input.copy_(value) if inplace else value


def hard_sigmoid_(input: Tensor) -> Tensor:
    """`hard_sigmoid` in place."""
    return hard_sigmoid(input, inplace=True)


def multi_margin(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Sum over j != y of w_y max(0, margin - x_y + x_j)^p / C, as ``F.multi_margin_loss``."""
    x, y = torch.atleast_2d(input), torch.atleast_1d(target)
    gap = relu(margin - x.gather(1, y[:, None]) + x) ** p
    other = 1 - one_hot(y, x.shape[1]).to(x)
    losses = (gap * other).sum(1) / x.shape[1]
    if weight is not None:
        losses = losses * weight[y]
    return _reduced(losses.reshape(target.shape), size_average, reduce, reduction)


def multilabel_margin(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Sum over labels y and others i of max(0, 1 - x_y + x_i) / C, as ``F.multilabel_margin_loss``.

    A sample's labels are the entries of its target before the first negative one.
    """
    x, y = torch.atleast_2d(input), torch.atleast_2d(target)
    named = (y >= 0).cumprod(1).bool()
    marks = one_hot(y.clamp_min(0), x.shape[1]) * named[..., None]  # (B, C, C), a label a row
    other = 1 - marks.amax(1).to(x)
    gap = relu(1 - x.gather(1, y.clamp_min(0))[..., None] + x[:, None, :])
    losses = (gap * named[..., None] * other[:, None, :]).sum((1, 2)) / x.shape[1]
    return _reduced(losses.reshape(input.shape[:-1]), size_average, reduce, reduction)


def _reduced(
    losses: Tensor, size_average: bool | None, reduce: bool | None, reduction: str
) -> Tensor:
    if size_average is not None or reduce is not None:  # the deprecated arguments
        reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f"reduction={reduction!r} is none of 'none', 'sum' and 'mean'.")
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()


EQUAL: dict[Callable[..., Any], Callable[..., Tensor]] = {
    hardsigmoid: hard_sigmoid,
    torch._C._nn.hardsigmoid: hard_sigmoid,
    torch._C._nn.hardsigmoid_: hard_sigmoid_,
    torch.ops.aten.hardsigmoid: hard_sigmoid,
    torch.ops.aten.hardsigmoid.default: hard_sigmoid,
    torch.ops.aten.hardsigmoid_: hard_sigmoid_,
    torch.ops.aten.hardsigmoid_.default: hard_sigmoid_,
    multi_margin_loss: multi_margin,
    multilabel_margin_loss: multilabel_margin,
}
"""Equal formulas for functions without a second derivative."""

RECURRENT = frozenset((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu))
"""Functions behind recurrent layers, which have a second derivative without cuDNN."""
