"""The batch size, as the rank of a linear layer's gradient shows it.

A layer that sees one row per sample has a gradient of one rank per sample. What counts as rank is
decided by the rounding of the gradient's entries: the widest gap among the singular values, if
nothing but rounding follows it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from attacks.base import NotApplicable, Problem
from attacks.linear import LinearCall

ROUNDING = 16
"""Singular values up to this many unit roundoffs of the largest count as rounding noise."""

NO_BATCH_SIZE = (
    "The gradient does not show the batch size: its linear layers are too narrow, or noise covers "
    "their rank. Grant it with attack.knows=[batch_size]."
)


def estimate_batch_size(
    gradient: Mapping[str, Tensor], calls: list[LinearCall], classifier: bool
) -> int | None:
    """Batch size from the gradient alone: the rank of a linear layer's gradient.

    dL/dW of a layer that sees one row per sample is a sum of B outer products, so its rank is at
    most B, and generically B unless the layer is narrower than the batch. (At the output of a
    classifier the rows of softmax errors sum to zero, which takes one off the width.) Rounding
    counts as the coarser of gradient and weights has it: a gradient from weights that were sent
    back is a difference of these.

    Parameters
    ----------
    gradient : mapping from parameter name to Tensor
        Of the mean loss.
    calls : list of LinearCall
        Of the model.
    classifier : bool
        Whether the loss is cross entropy.

    Returns
    -------
    int or None
        None if every layer is saturated. Samples whose error is below the gradient's rounding
        noise do not count; nor do repetitions of the same sample.
    """
    ranks = []
    for call in calls:
        observed = gradient.get(call.weight)
        if observed is None or not call.per_sample:
            continue
        matrix = observed.double()
        bias = gradient.get(call.bias)
        if bias is not None:
            matrix = torch.cat([matrix, bias.double()[:, None]], 1)
        limit = min(matrix.shape) - (1 if classifier and call.at_output else 0)
        weight = call.module.weight.dtype
        coarser = max(observed.dtype, weight, key=lambda dtype: torch.finfo(dtype).eps)
        singular = singular_values(matrix, coarser)
        rank = rank_above_rounding(singular, torch.finfo(coarser).eps / 2)
        if 0 < rank < limit:
            ranks.append(rank)
    return max(ranks, default=None)


def singular_values(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Singular values of a float64 matrix, decreasing, as precise as entries of `dtype` deserve.

    For float32 entries the square roots of the smaller Gram matrix' eigenvalues do, at a fraction
    of the time: they err by 1e-8 of the largest value, the entries' rounding by more.

    Parameters
    ----------
    matrix : Tensor of shape (p, q)
        In float64.
    dtype : torch.dtype
        Whose rounding its entries carry.

    Returns
    -------
    Tensor of shape (min(p, q),)
        In float64, none negative.
    """
    if dtype == torch.float64:
        return torch.linalg.svdvals(matrix)
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    return torch.linalg.eigvalsh(wide @ wide.T).clamp_min(0).sqrt().flip(0)


def rank_above_rounding(singular: Tensor, roundoff: float) -> int:
    """Number of singular values before the widest gap, or 0 if what follows is no rounding noise.

    Parameters
    ----------
    singular : Tensor of shape (p,)
        Singular values, decreasing.
    roundoff : float
        Unit roundoff of the matrix' entries.

    Returns
    -------
    int
        Between 0 and p.
    """
    if not len(singular) or not float(singular[0]) > 0:
        return 0
    floor = float(singular[0]) * roundoff
    values = torch.cat([singular, singular.new_zeros(1)]).clamp_min(0.01 * floor)
    above = max(int((singular > 2 * floor).sum()), 1)
    rank = int((values[:-1] / values[1:])[:above].argmax()) + 1
    return rank if float(values[rank]) < ROUNDING * floor else 0


def batch_size_of(problem: Problem, calls: list[LinearCall]) -> tuple[int, int | None]:
    """The batch size to work with, and its estimate from the gradient alone if one is needed.

    Parameters
    ----------
    problem : Problem
        May grant the size, or labels to count.
    calls : list of LinearCall
        The model's linear layers.

    Returns
    -------
    size : int
        As granted, otherwise the estimate.
    estimate : int or None
        None if the size is granted: what is granted is believed, not estimated.

    Raises
    ------
    NotApplicable
        If it is neither granted nor readable.
    """
    granted = problem.knows.batch_size
    if granted is None and problem.knows.labels is not None:
        granted = len(problem.knows.labels)
    if granted is not None:
        return granted, None
    estimate = estimate_batch_size(problem.gradient, calls, problem.loss == "cross_entropy")
    if estimate is None:
        raise NotApplicable(NO_BATCH_SIZE)
    return estimate, estimate
