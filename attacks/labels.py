"""`infer_labels`: which labels a batch holds, and how often, from the last layer's gradient.

For softmax cross-entropy the last bias' gradient is dL/db_c = P_c - n_c / B, with P the batch's
mean prediction and n the label counts. One sample: the one negative entry is the label (iDLG, Zhao
et al. 2020, arXiv 2001.02610). More: P is estimated and the bias it causes removed, from mean
features read out of the same gradient (the idea of Ma et al. 2022, "Instance-wise batch label
restoration via gradients in federated learning"; which features and how is our own).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable, Problem
from attacks.batch_size import NO_BATCH_SIZE, estimate_batch_size
from attacks.linear import LinearCall, linear_calls
from attacks.reading.handover import named_gradient, whole_number
from attacks.reading.inputs import checked_shape, resolve_input_shape
from attacks.reading.private import private_copy

ROUNDS = 10
"""Most alternations between counts and features; they settle after two or three."""

SPREAD = 0.1
"""Labels' worth of what dL/dA holds of an absent class besides the batch's mean feature."""


@dataclass(frozen=True)
class LabelEstimate:
    """What a gradient says about a batch's labels.

    Attributes
    ----------
    labels : int64 Tensor of shape (B,)
        Labels in increasing order, each as often as estimated.
    counts : int64 Tensor of shape (C,)
        How often each class occurs.
    shares : Tensor of shape (C,)
        n_c / B before rounding.
    batch_size : int, optional
        Estimate from the gradient alone; None if the size was granted.
    """

    labels: Tensor
    counts: Tensor
    shares: Tensor
    batch_size: int | None


def infer_labels(
    model: nn.Module,
    gradient: Mapping[str, Any] | Iterable[Any],
    *,
    batch_size: int | None = None,
    input_shape: tuple[int, ...] | None = None,
) -> LabelEstimate:
    """Labels of the batch behind a gradient of the mean cross entropy.

    Parameters
    ----------
    model : nn.Module
        Holds the parameters the server sent; its output is a linear layer's.
    gradient : mapping from parameter name to Tensor, or iterable of Tensor
        Of the mean cross entropy; as for `Attack.run`.
    batch_size : int, optional
        If the threat model grants it; otherwise the rank of the linear layers' gradients.
    input_shape : tuple of int, optional
        Shape of one input; not needed if the model begins with a linear layer.

    Returns
    -------
    LabelEstimate

    Raises
    ------
    NotApplicable
        If the model does not end in a linear layer, or the batch size is neither granted nor
        readable.
    ValueError
        If the gradient does not fit the model, or `batch_size` is not positive.
    """
    private = private_copy(model)
    gradient = named_gradient(private, gradient)
    calls = linear_calls(private, resolve_input_shape(private, checked_shape(input_shape)))
    estimate = None
    if batch_size is None:
        estimate = estimate_batch_size(gradient, calls, classifier=True)
    size = estimate if batch_size is None else whole_number("batch_size", batch_size)
    if size is None:
        raise NotApplicable(NO_BATCH_SIZE)
    counts, shares = _counts(gradient, calls, size)
    return LabelEstimate(_listed(counts), counts, shares, estimate)


def inferred_labels(problem: Problem, calls: list[LinearCall], size: int) -> Tensor:
    """Labels of a problem: those granted, or those its gradient shows for a known batch size.

    Parameters
    ----------
    problem : Problem
        Its loss is cross entropy unless labels are granted.
    calls : list of LinearCall
        The model's linear layers.
    size : int
        Batch size B, at least 1.

    Returns
    -------
    Tensor of shape (B,)
        As granted, or int64 and in increasing order.

    Raises
    ------
    NotApplicable
        If none are granted and the model's output is not a linear layer's.
    """
    if problem.knows.labels is not None:
        return problem.knows.labels
    return _listed(_counts(problem.gradient, calls, size)[0])


def _counts(
    gradient: Mapping[str, Tensor], calls: list[LinearCall], size: int
) -> tuple[Tensor, Tensor]:
    shares, present = class_shares(gradient, output_layer(calls), size)
    return round_counts(shares, present, size), shares


def _listed(counts: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)


def class_shares(
    gradient: Mapping[str, Tensor], layer: LinearCall, size: int
) -> tuple[Tensor, Tensor]:
    """Share s_c = n_c / B of each class, and which classes are certainly there.

    With h the batch's mean feature and e_c that of class c, s = P - dL/db, P ~ sum_c s_c
    softmax(A e_c + b), and dL/dA_c ~ P_c h - s_c e_c = dL/db_c h - s_c (e_c - h). The last term is
    an error of variance s_c to who looks for h, nothing for an absent class: h is the weighted
    least-squares solution, the e_c follow from it, and new shares from them.

    Parameters
    ----------
    gradient : mapping from parameter name to Tensor
    layer : LinearCall
        The output layer.
    size : int
        B.

    Returns
    -------
    shares : Tensor of shape (C,)
    present : bool Tensor of shape (C,)
        Where dL/db_c < 0, which a class that is not in the batch cannot cause.

    Raises
    ------
    NotApplicable
        If the gradient of the layer's weight is not there.
    """
    if layer.weight not in gradient:
        raise NotApplicable(f"The gradient of {layer.weight!r} is needed and not there.")
    dA = gradient[layer.weight].double()
    A = layer.module.weight.detach().double()
    b = (
        layer.module.bias.detach().double()
        if layer.module.bias is not None
        else A.new_zeros(len(A))
    )
    observed = gradient.get(layer.bias)
    db = observed.double() if observed is not None else _bias_gradient(dA, layer.features.double())
    present = db < -1e-6 * db.abs().max()
    mean = _mean_feature(dA, db, torch.ones_like(db))
    shares = _project_on_simplex(torch.softmax(A @ mean + b, 0) - db)
    counts = round_counts(shares, present, size)
    for _ in range(ROUNDS):
        mean = _mean_feature(dA, db, 1 / (counts + SPREAD))
        own = (torch.outer(db, mean) - dA) * (size / counts.clamp_min(1))[:, None]  # e_c - h
        predicted = counts.double() / size @ torch.softmax((mean + own) @ A.T + b, 1)
        shares, before = _project_on_simplex(predicted - db), counts
        counts = round_counts(shares, present, size)
        if torch.equal(counts, before):
            break
    return shares, present


def _mean_feature(dA: Tensor, db: Tensor, weights: Tensor) -> Tensor:
    """The h that solves dL/dA ~ dL/db h' best, rows weighted."""
    weighted = weights * db
    return (weighted @ dA) / (weighted @ db).clamp_min(1e-300)


def round_counts(shares: Tensor, present: Tensor, size: int) -> Tensor:
    """Whole numbers nearest to size * shares that sum to size.

    Largest remainders; a class that is certainly present gets at least one.

    Parameters
    ----------
    shares : Tensor of shape (C,)
        Sum to one.
    present : bool Tensor of shape (C,)
    size : int
        At least 1.

    Returns
    -------
    int64 Tensor of shape (C,)
    """
    wanted = size * shares.double()
    least = present.long()
    if int(least.sum()) > size:  # more signs than samples: keep the strongest
        least = torch.zeros_like(least)
        least[torch.topk(wanted, size).indices] = 1
    counts = torch.maximum(wanted.floor().long(), least)
    while (missing := size - int(counts.sum())) != 0:
        remainder = wanted - counts
        if missing > 0:
            counts[remainder.argmax()] += 1
        else:
            removable = torch.where(
                counts > least, remainder, torch.full_like(remainder, torch.inf)
            )
            counts[removable.argmin()] -= 1
    return counts


def output_layer(calls: list[LinearCall]) -> LinearCall:
    """The linear layer whose output is the model's.

    Raises
    ------
    NotApplicable
        If there is none.
    """
    layer = next((c for c in calls if c.at_output), None)
    if layer is None:
        raise NotApplicable("The model's output is not a linear layer's, so labels cannot be read.")
    return layer


def _bias_gradient(dA: Tensor, features: Tensor) -> Tensor:
    """Bias' gradient a layer without bias would have had, from a mean feature of random inputs.

    dA ~ db (x) h: its leading singular vectors, with the sign and length of h taken from what
    random inputs cause, or the sign that leaves one negative entry if there is such.
    """
    U, S, Vh = torch.linalg.svd(dA, full_matrices=False)
    u = U[:, 0] * S[0]
    if int((u < 0).sum()) != 1 and (int((u > 0).sum()) == 1 or float(Vh[0] @ features) < 0):
        u = -u
    return u / features.norm().clamp_min(1e-300)


def _project_on_simplex(v: Tensor) -> Tensor:
    """Nearest point with non-negative entries that sum to one (Duchi et al. 2008)."""
    ordered = v.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(v) + 1, device=v.device)
    last = int((ordered > excess).sum()) - 1
    return (v - excess[last]).clamp_min(0)
