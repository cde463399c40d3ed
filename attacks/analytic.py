"""`AnalyticAttack`: an input is the quotient of a linear layer's weight and bias gradients.

For a layer that sees the input itself, dL/dW = sum_i D_i x_i' and dL/db = sum_i D_i. One sample:
every row of the first is the input times an entry of the second (Phong et al. 2018,
"Privacy-preserving deep learning via additively homomorphic encryption"). Several samples: a row's
quotient is a weighted mean of those samples that activate its unit, and the sample itself if there
is but one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.base import Attack, NotApplicable, Problem, Reconstruction, in_layers
from attacks.batch_size import batch_size_of
from attacks.labels import inferred_labels
from attacks.linear import LinearCall, bias_gradients, linear_calls, output_slopes
from attacks.reading.inputs import drawing, resolve_input_shape
from attacks.reading.losses import parallel_errors
from attacks.reading.private import private_copy
from attacks.reading.recording import record
from attacks.reading.refusals import unread_layer

ALIKE = 1e-3
"""Relative distance below which two units' quotients count as the same image."""

EXACT = 1e-4
"""Relative residual of dL/dW = dL/db x' below which a single sample counts as proven, and of dL/db
itself against what the model returns for it."""


class AnalyticAttack(Attack):
    """Quotients of weight and bias gradients of the first linear layer.

    Exact, and certified, for one sample. For more it returns one quotient per sample of the batch:
    those that most units agree on first, then those of the largest bias gradients; mixtures of
    samples, unless a unit happened to see one sample only. That the gradient's rank is one proves
    no single sample where all samples' columns are parallel; see `single_sample`.
    """

    def reconstruct(self, problem: Problem) -> Reconstruction:
        """Reconstruct the batch; see `Attack.run`."""
        problem = in_layers(problem)
        shape = resolve_input_shape(problem.model, problem.input_shape)
        calls = linear_calls(problem.model, shape)
        layer = input_layer(problem, calls)
        size, estimate = batch_size_of(problem, calls)
        dW, db = problem.gradient[layer.weight], problem.gradient[layer.bias]
        if size == 1:
            inputs, residual = single(dW.double(), db.double())
            support = [len(db)]
        else:
            inputs, residual, support = quotients(dW.double(), db.double(), size)
        x = inputs.reshape(-1, *shape)
        proved = size == 1 and single_sample(problem, layer, x)
        labels = None
        shown = any(c.at_output and c.weight in problem.gradient for c in calls)
        if size == 1 and problem.loss == "cross_entropy" and shown:
            labels = inferred_labels(problem, calls, 1)
        return Reconstruction(
            inputs=x.to(dW.dtype),
            labels=labels,
            certified=(residual < EXACT) & proved,
            residual=residual.to(dW.dtype),
            batch_size=estimate,
            info={"layer": layer.name, "units_in_agreement": support},
        )


def input_layer(problem: Problem, calls: list[LinearCall]) -> LinearCall:
    """The linear layer that sees the model's input, with weight and bias gradients.

    Parameters
    ----------
    problem : Problem
        Holds the gradient.
    calls : list of LinearCall
        The model's linear layers.

    Returns
    -------
    LinearCall

    Raises
    ------
    NotApplicable
        If no linear layer sees the input, or the gradient of its weight or bias is not there.
    """
    layer = next((c for c in calls if c.at_input), None)
    if layer is None:
        raise NotApplicable(_no_input_layer(problem, calls))
    if layer.weight not in problem.gradient or layer.bias not in problem.gradient:
        raise NotApplicable(
            f"The attack divides by the gradient of {layer.bias!r}, which is not there."
        )
    return layer


def single(dW: Tensor, db: Tensor) -> tuple[Tensor, Tensor]:
    """The x that solves dL/dW = dL/db x' best: dW' db / |db|^2, and the relative residual.

    Parameters
    ----------
    dW : Tensor of shape (m, d)
    db : Tensor of shape (m,)

    Returns
    -------
    inputs : Tensor of shape (n, d)
        n = 1, or 0 if the bias' gradient vanishes.
    residual : Tensor of shape (n,)
    """
    power = db.square().sum()
    if not power > 0:
        return dW.new_zeros(0, dW.shape[1]), dW.new_zeros(0)
    x = db @ dW / power
    gap = (dW - torch.outer(db, x)).norm() / dW.norm().clamp_min(torch.finfo(dW.dtype).tiny)
    return x[None], gap[None]


def single_sample(problem: Problem, layer: LinearCall, inputs: Tensor) -> bool:
    """Whether a gradient of rank one can only be that of one sample.

    Behind units of equal slopes the columns of a whole batch are parallel as soon as its errors
    are: for one output, and for two under cross entropy. The quotient is a weighted mean then.
    Under cross entropy one of the classes has to explain how large dL/db is, which a mean does not;
    under any other loss with one output, or one way only from the layer to the outputs, any size
    can be explained, and nothing is proved.

    Parameters
    ----------
    problem : Problem
        Holds model and gradient.
    layer : LinearCall
        That sees the inputs.
    inputs : Tensor of shape (1, *input_shape)
        Or of none.

    Returns
    -------
    bool
    """
    if not len(inputs):
        return False
    db = problem.gradient[layer.bias].double()
    if problem.loss != "cross_entropy":
        slopes = output_slopes(problem.model, layer.name, inputs)  # (C, m)
        S = torch.linalg.svdvals(slopes)
        narrow = len(S) < 2 or bool(S[1] <= EXACT * S[0])
        return not (narrow or parallel_errors(problem.loss, len(slopes)))
    expected = bias_gradients(problem.model, layer.name, inputs[:1])[0]
    return bool(((expected - db).norm(dim=1) < EXACT * db.norm()).any())


def quotients(dW: Tensor, db: Tensor, size: int) -> tuple[Tensor, Tensor, list[int]]:
    """At most `size` distinct row quotients, the best supported first.

    Parameters
    ----------
    dW : Tensor of shape (m, d)
    db : Tensor of shape (m,)
    size : int

    Returns
    -------
    inputs : Tensor of shape (n, d)
    residual : Tensor of shape (n,)
        Relative distance to the nearest other unit's quotient.
    support : list of int
        How many units agree on each.
    """
    rows = torch.nonzero(db.abs() > 1e-6 * db.abs().max())[:, 0]
    candidates = dW[rows] / db[rows, None]
    norms = candidates.norm(dim=1).clamp_min(torch.finfo(dW.dtype).tiny)
    apart = torch.cdist(candidates, candidates) / norms[:, None]
    alike = apart < ALIKE
    apart.fill_diagonal_(torch.inf)
    support = alike.sum(1)
    weight = db[rows].abs() / db.abs().max().clamp_min(torch.finfo(db.dtype).tiny)
    chosen: list[int] = []
    free = torch.ones(len(rows), dtype=torch.bool, device=dW.device)
    while len(chosen) < size and bool(free.any()):
        best = int((torch.where(free, support + weight, -torch.ones_like(weight))).argmax())
        chosen.append(best)
        free &= ~alike[best]
        free[best] = False
    return candidates[chosen], apart[chosen].min(1).values, support[chosen].tolist()


def _no_input_layer(problem: Problem, calls: list[LinearCall]) -> str:
    """Why no linear layer counts as seeing the input, in one sentence."""
    for call in calls:
        if call.reason is not None:
            return f"What {call.name!r} is handed is not surely the model's input: {call.reason}."
    private = private_copy(problem.model).eval()
    shape = resolve_input_shape(private, problem.input_shape)
    found = unread_layer(record(private, drawing(private, shape)))
    return found or "The model does not begin with a linear layer: none is handed the input itself."
