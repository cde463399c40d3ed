"""The clients' loss: told by name, or by what a function of output and target does.

Attacks use two facts of a loss: which way its derivative by the output points for a label, and
whether these derivatives leave room to tell samples apart. A function that does what a named loss
does is that loss, whoever wrote it; of any other one nothing is assumed but what it shows when run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from attacks.reading.inputs import random_inputs, resolve_input_shape
from attacks.reading.private import private_copy

Loss = str | Callable[[Tensor, Tensor], Tensor]
NAMES = ("cross_entropy", "mse", "bce_with_logits", "nll")
SAMPLES = 4
"""Rows that a function is tried on."""


def checked_loss(loss: Loss) -> Loss:
    """The loss itself.

    Parameters
    ----------
    loss : str or callable
        One of `NAMES`, or a function of output (B, C) and target that returns a scalar.

    Raises
    ------
    ValueError
        If it is neither; the message names it.
    """
    if loss in NAMES or callable(loss):
        return loss
    raise ValueError(f"loss={loss!r} is not one of {', '.join(NAMES)}, and no function.")


def unknown(output: Tensor, target: Tensor) -> Tensor:
    """A loss that nothing is known of; takes no target at all.

    Raises
    ------
    TypeError
        Always.
    """
    raise TypeError("Nothing is known of this loss.")


def understood(loss: Loss, model: nn.Module, input_shape: tuple[int, ...] | None) -> Loss:
    """A loss in the attacks' own terms.

    Parameters
    ----------
    loss : str or callable
        As for `checked_loss`.
    model : nn.Module
        A private copy, run on a few random inputs where the loss alone does not tell.
    input_shape : tuple of int, optional
        Shape of one input.

    Returns
    -------
    str or callable
        "cross_entropy" (of class indices or distributions; the negative log-likelihood of
        log-probabilities is one), "mse", "bce_with_logits", or a function that is none of these.

    Raises
    ------
    ValueError
        If the loss is neither a known name nor a function.
    """
    loss = checked_loss(loss)
    if isinstance(loss, str) and loss != "nll":
        return loss
    output = _sample_output(model, input_shape)
    if isinstance(loss, str):
        return "cross_entropy" if log_probabilities(output) else nn.functional.nll_loss
    width = 2 if output is None else output.reshape(len(output), -1).shape[1]
    kind = _kind(loss, width, output)
    if kind == "nll":
        return "cross_entropy" if log_probabilities(output) else loss
    return kind or loss


def credible(loss: Loss, model: nn.Module, input_shape: tuple[int, ...] | None) -> Loss:
    """The loss itself, or `unknown` if a gradient under it would vanish.

    Parameters
    ----------
    loss, model, input_shape
        As for `understood`.

    Returns
    -------
    str or callable
        `unknown` for the cross entropy of a single output, which is zero whatever it is.
    """
    if loss != "cross_entropy":
        return loss
    output = _sample_output(model, input_shape)
    return unknown if output is not None and output.numel() == len(output) else loss


def _sample_output(model: nn.Module, input_shape: tuple[int, ...] | None) -> Tensor | None:
    """What a model returns for a few random inputs; None if it cannot be run."""
    try:
        quiet = private_copy(model).eval()
        shape = resolve_input_shape(quiet, input_shape)
        with torch.no_grad():
            return quiet(random_inputs(quiet, shape, SAMPLES)).double()
    except Exception:  # a model's own code may raise anything; the attack will say what
        return None


def log_probabilities(output: Tensor | None) -> bool:
    """Whether outputs are logarithms of distributions: then their likelihood is cross entropy.

    Parameters
    ----------
    output : Tensor of shape (n, C), optional
        Of any other shape, or None, they are none.

    Returns
    -------
    bool
    """
    if output is None or output.dim() != 2:
        return False
    total = output.logsumexp(1)
    return bool((total.abs() < 1e-4).all())


def _kind(loss: Callable[[Tensor, Tensor], Tensor], width: int, like: Tensor | None) -> str | None:
    """Name of the loss whose derivatives a function has."""
    device = torch.device("cpu") if like is None else like.device
    output, classes, targets = _trial(width, device)
    n = len(output)
    onehot = nn.functional.one_hot(classes, width).to(output)
    binary = (targets > 0).to(output)
    rows = {
        "cross_entropy": (classes, (output.softmax(1) - onehot) / n),
        "nll": (classes, -onehot / n),
        "mse": (targets, 2 * (output - targets) / (n * width)),
        "bce_with_logits": (binary, (output.sigmoid() - binary) / (n * width)),
    }
    for name, (target, expected) in rows.items():
        made = _slope(loss, output, target)
        if made is not None and torch.allclose(made, expected, rtol=1e-6, atol=1e-9):
            return name
    return None


def _trial(width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (n, C), class indices and real targets to try a function on."""
    generator = torch.Generator().manual_seed(0)
    output, targets = torch.randn(2, SAMPLES, width, generator=generator, dtype=torch.float64)
    classes = torch.randint(width, (SAMPLES,), generator=generator)
    return output.to(device), classes.to(device), targets.to(device)


def _slope(
    loss: Callable[[Tensor, Tensor], Tensor], output: Tensor, target: Tensor
) -> Tensor | None:
    """Derivative of a loss by the output, or None where the function does not take the target."""
    leaf = output.detach().requires_grad_(True)
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shapes that broadcast: not the user's own
            value = loss(leaf, target)
            if value.numel() != 1 or not value.requires_grad:
                return None
            (slope,) = torch.autograd.grad(value.sum(), leaf)
    except Exception:  # a function of somebody else's may raise anything
        return None
    return slope if bool(slope.isfinite().all()) else None


def parallel_errors(loss: Loss, outputs: int) -> bool:
    """Whether a loss' derivatives by an output vector all point the same way, up to sign.

    Then the columns of samples behind equal slopes are parallel.

    Parameters
    ----------
    loss : str or callable
        From `understood`.
    outputs : int
        Length C of the vector.

    Returns
    -------
    bool
        For a function that takes no target it was tried on True: nothing is known then.
    """
    if outputs == 1:
        return True
    if isinstance(loss, str):
        return loss == "cross_entropy" and outputs == 2
    output, classes, targets = _trial(outputs, torch.device("cpu"))
    rows = [_slope(loss, output, t) for t in (classes, targets, (targets > 0).to(output))]
    seen = torch.cat([row for row in rows if row is not None] or [output[:1]])
    S = torch.linalg.svdvals(seen)
    return bool(len(S) < 2 or S[1] <= 1e-9 * S[0])


def class_errors(loss: Loss, output: Tensor) -> Tensor | None:
    """Derivative of the loss by each output for every class, up to a factor per class.

    Parameters
    ----------
    loss : str or callable
        From `understood`.
    output : Tensor of shape (n, C)

    Returns
    -------
    Tensor of shape (n, C, C), or None
        Entry i, c is the derivative for sample i if its label is c; None where the loss takes no
        class indices, no single sample, or is the same for two classes.
    """
    n, width = output.shape
    if loss == "cross_entropy":
        eye = torch.eye(width).to(output)
        return output.softmax(1)[:, None, :] - eye
    if isinstance(loss, str):
        return None
    found: list[Tensor] = []
    for c in range(width):
        target = torch.full((n,), c, device=output.device)
        slope, alone = _slope(loss, output, target), _slope(loss, output[:1], target[:1])
        if slope is None or alone is None:
            return None
        found.append(slope * n)
    errors = torch.stack(found, 1)
    unit = errors / errors.norm(dim=2, keepdim=True).clamp_min(1e-300)
    alike = unit @ unit.transpose(1, 2) - 2 * torch.eye(width).to(unit)
    return None if bool((alike > 1 - 1e-6).any()) else errors  # a loss that does not see the label


def sample_losses(loss: Loss, output: Tensor, targets: Tensor) -> Tensor:
    """Each sample's own loss.

    Parameters
    ----------
    loss : str or callable
        From `understood`.
    output : Tensor of shape (n, C)
    targets : Tensor
        (n,) of class indices or (n, C) of distributions for cross entropy and for a function of
        one's own as it takes them; (n, C) for all others.

    Returns
    -------
    Tensor of shape (n,)
    """
    functional = nn.functional
    if loss == "cross_entropy":
        return functional.cross_entropy(output, targets, reduction="none")
    if loss == "mse":
        return (output - targets.reshape(output.shape)).square().mean(1)
    if loss == "bce_with_logits":
        wanted = targets.reshape(output.shape).to(output)
        return functional.binary_cross_entropy_with_logits(output, wanted, reduction="none").mean(1)
    assert not isinstance(loss, str)
    one = (loss(o, t).sum() for o, t in _single(output, targets))
    return torch.stack(list(one))


def output_errors(loss: Loss, output: Tensor, targets: Tensor) -> Tensor:
    """Derivative of each sample's own loss by its output.

    Parameters
    ----------
    loss, output, targets
        As for `sample_losses`.

    Returns
    -------
    Tensor of shape (n, C)
    """
    leaf = output.detach().requires_grad_(True)
    with torch.enable_grad():
        total = sample_losses(loss, leaf, targets).sum()
        (errors,) = torch.autograd.grad(total, leaf)
    return errors


def _single(output: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    yield from ((output[i : i + 1], targets[i : i + 1]) for i in range(len(output)))


def mean_loss(output: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """Mean loss of a batch; class labels may be indices or logits to be optimised.

    Parameters
    ----------
    output : Tensor of shape (B, C)
        Of the model; of any shape for "mse" and "bce_with_logits".
    labels : Tensor of shape (B,) of class indices, or (B, C) of class logits
        For "mse" and "bce_with_logits" targets, as many as outputs; for a function of one's own
        whatever it takes.
    loss : str or callable
        From `understood`.

    Returns
    -------
    Tensor of shape ()
    """
    if loss == "mse":
        return (output - labels.reshape(output.shape)).square().mean()
    if loss == "bce_with_logits":
        wanted = labels.reshape(output.shape).to(output)
        return nn.functional.binary_cross_entropy_with_logits(output, wanted)
    if not isinstance(loss, str):
        return loss(output, labels)
    if labels.is_floating_point():
        soft = torch.softmax(labels, 1)
        return -(soft * torch.log_softmax(output, 1)).sum(1).mean()
    return nn.functional.cross_entropy(output, labels)
