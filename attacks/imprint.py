"""`ImprintAttack`: read the samples an imprinted first layer has sorted into bins.

The server sent a first layer whose rows are all the same and whose units feed the next layer with
the same weights (Fowl et al. 2022, "Robbing the Fed", arXiv 2110.13057, section 4; the strategy's
side of it is `strategies.queries.Imprint`). A rectifier lets unit i see the samples of brightness
above its threshold. So the gradients of neighbouring units, in the order of their thresholds,
differ by the samples in between, and where that is a single one x,

    (dL/dW_i - dL/dW_j) / (dL/db_i - dL/db_j) = x.

A bin with several samples gives a mixture of them. The model tells the two apart: for a sample x of
label y, the bias gradient's difference is the model's own derivative at (x, y) over the batch size,
one integer for all bins.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from attacks.base import Attack, NotApplicable, Problem, Reconstruction, in_layers
from attacks.linear import bias_gradients
from attacks.settings import weight
from attacks.tensor.layers import LinearPair, input_pair

ALIKE = 1e-6
"""Relative distance below which rows count as the same."""

LARGEST_BATCH = 4096
"""Batch sizes up to this one are tried."""


class ImprintAttack(Attack):
    """Quotients of differences between neighbouring units of an imprinted layer.

    Parameters
    ----------
    faintest : float, default 1e-4
        Bins whose bias gradient is below this share of the largest count as empty.
    tolerance : float, default 1e-3
        Relative misfit of the model's own derivative up to which a sample is certified.
    """

    def __init__(self, faintest: float = 1e-4, tolerance: float = 1e-3) -> None:
        self.faintest = weight("faintest", faintest)
        self.tolerance = weight("tolerance", tolerance)

    def reconstruct(self, problem: Problem) -> Reconstruction:
        """Reconstruct the batch; see `Attack.run`."""
        problem = in_layers(problem)
        pair = imprinted_pair(problem)
        layer = problem.model.get_submodule(pair.hidden)
        assert isinstance(layer, nn.Linear)
        order = layer.bias.detach().double().argsort(descending=True)
        dW = _steps(problem.gradient[f"{pair.hidden}.weight"].double()[order])
        db = _steps(problem.gradient[f"{pair.hidden}.bias"].double()[order])
        full = (db.abs() > self.faintest * db.abs().max()).nonzero().flatten()
        inputs = dW[full] / db[full, None]
        shape = problem.input_shape or (pair.in_features,)
        inputs = inputs.reshape(-1, *shape)
        info: dict[str, Any] = {"bins": len(order), "full_bins": len(full)}
        dtype = problem.gradient[f"{pair.hidden}.weight"].dtype
        if problem.loss != "cross_entropy" or not len(full):
            return Reconstruction(
                inputs=inputs.to(dtype),
                certified=torch.zeros_like(full, dtype=torch.bool),
                residual=torch.zeros_like(full, dtype=dtype),
                info=info,
            )
        expected = _steps(bias_gradients(problem.model, pair.hidden, inputs)[:, :, order], dim=-1)
        expected = expected[torch.arange(len(full)), :, full]  # (n, classes), for a batch of one
        size, labels, misfit = explained(expected, db[full], self.tolerance)
        return Reconstruction(
            inputs=inputs.to(dtype),
            labels=labels if size is not None else None,
            certified=misfit < self.tolerance,
            residual=misfit.to(dtype),
            batch_size=size,
            info=info,
        )


def imprinted_pair(problem: Problem) -> LinearPair:
    """The pair of layers at the input, if the server had imprinted it.

    Parameters
    ----------
    problem : Problem
        Holds model and gradient.

    Returns
    -------
    LinearPair

    Raises
    ------
    NotApplicable
        If there is none, its rows differ, the first layer's bias has no gradient, or its activation
        is not piecewise linear.
    """
    pair = input_pair(problem.model, problem.input_shape)
    state = dict(problem.model.named_parameters())
    rows = state[f"{pair.hidden}.weight"].detach()
    columns = state[f"{pair.outgoing}.weight"].detach().T
    if f"{pair.hidden}.bias" not in problem.gradient or not (_same(rows) and _same(columns)):
        raise NotApplicable(
            "The first layer carries no imprint; strategy=active strategy.query=imprint sends one."
        )
    if pair.activation.kind != "piecewise linear":
        raise NotApplicable(
            f"An imprint needs a rectifier; the activation behind {pair.hidden!r} is "
            f"{pair.activation.kind}."
        )
    return pair


def _same(rows: Tensor) -> bool:
    return bool((rows - rows[0]).norm() <= ALIKE * rows.norm())


def _steps(values: Tensor, dim: int = 0) -> Tensor:
    """Differences between each unit and the next higher threshold's; the last stays itself."""
    values = values.movedim(dim, 0)
    ahead = torch.cat([values[1:], torch.zeros_like(values[:1])])
    return (values - ahead).movedim(0, dim)


def explained(
    expected: Tensor, observed: Tensor, tolerance: float
) -> tuple[int | None, Tensor, Tensor]:
    """Choose the batch size that explains most bins, and each bin's label.

    Parameters
    ----------
    expected : Tensor of shape (n, classes)
        Bias gradient of a batch of one sample, under each label.
    observed : Tensor of shape (n,)
        Bias gradient of the batch.
    tolerance : float
        Relative misfit up to which a bin is explained.

    Returns
    -------
    size : int, optional
        None if no batch size explains any bin; then the labels mean nothing.
    labels : Tensor of shape (n,)
    misfit : Tensor of shape (n,)
    """
    ratios = (expected / observed[:, None]).flatten().round()
    sizes = ratios[(ratios >= 1) & (ratios <= LARGEST_BATCH)].unique()
    if not len(sizes):
        return None, torch.zeros_like(observed, dtype=torch.int64), torch.ones_like(observed)
    misfits = (expected[None] / sizes[:, None, None] / observed[None, :, None] - 1).abs()
    best, labels = misfits.min(2)  # (sizes, n)
    chosen = int((best < tolerance).sum(1).argmax())
    return int(sizes[chosen]), labels[chosen], best[chosen]
