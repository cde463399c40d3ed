"""The losses a scenario's clients can minimise, by name, and the class an output stands for.

All take outputs (B, C) and either class indices (B,) or one value per class (B, C), and are reduced
to the mean.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

PER_CLASS = ("mse", "bce_with_logits")
"""Losses that compare every output with a value of its own."""


def negative_log_likelihood(output: Tensor, target: Tensor) -> Tensor:
    """Mean negative log-likelihood of log-probabilities.

    Parameters
    ----------
    output : Tensor of shape (B, C)
    target : Tensor of shape (B,) of class indices, or (B, C) of class probabilities

    Returns
    -------
    Tensor of shape ()
    """
    if target.is_floating_point():
        return -(target * output).sum(1).mean()
    return functional.nll_loss(output, target)


def binary_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross entropy of logits, each class for itself.

    Parameters
    ----------
    output : Tensor of shape (B, C), or (B, 1) for two classes
        A single output stands for the second class.
    target : Tensor of shape (B, C)
        In [0, 1].

    Returns
    -------
    Tensor of shape ()
    """
    if output.shape[1] == 1 and target.shape[1] == 2:
        target = target[:, 1:]
    return functional.binary_cross_entropy_with_logits(output, target)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": functional.cross_entropy,
    "mse": functional.mse_loss,
    "bce_with_logits": binary_cross_entropy,
    "nll": negative_log_likelihood,
}


def predicted(output: Tensor) -> Tensor:
    """The class each output stands for.

    Parameters
    ----------
    output : Tensor of shape (B, C)
        With C = 1, the logit of the second of two classes.

    Returns
    -------
    int64 Tensor of shape (B,)
    """
    return (output[:, 0] > 0).long() if output.shape[1] == 1 else output.argmax(1)


def outputs_needed(loss: str, classes: int) -> tuple[int, ...]:
    """Numbers of outputs that a loss can be taken of, where each class needs its own value.

    Parameters
    ----------
    loss : str
        A key of `LOSSES`.
    classes : int

    Returns
    -------
    tuple of int
    """
    return (classes, 1) if loss == "bce_with_logits" and classes == 2 else (classes,)
