"""The linear layers of a model as one forward pass meets them: which see the input, which the end.

Label inference, batch-size estimation and the closed-form attacks read linear layers. Where those
stand is found by running a private copy of the model once on random inputs, so that a layer's
place is a fact about data, not about how the module is written.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable, Problem

ROUNDING = 16
"""Singular values up to this many unit roundoffs of the largest count as rounding noise."""

NO_BATCH_SIZE = (
    "The gradient does not show the batch size: its linear layers are too narrow, or noise covers "
    "their rank. Grant it with attack.knows=[batch_size]."
)


@dataclass(frozen=True)
class LinearCall:
    """One ``nn.Linear`` that a forward pass uses exactly once.

    Attributes
    ----------
    name : str
        Qualified name.
    module : nn.Linear
        Of the model itself, not of a copy.
    at_input : bool
        Whether it is handed the flattened model input.
    at_output : bool
        Whether what it returns is the model's output.
    per_sample : bool
        Whether it sees one row per sample (and not, say, one per token).
    features : Tensor of shape (in_features,)
        Its mean input over the random samples it was shown.
    """

    name: str
    module: nn.Linear
    at_input: bool
    at_output: bool
    per_sample: bool
    features: Tensor

    @property
    def weight(self) -> str:
        """Name of the weight among the model's parameters."""
        return f"{self.name}.weight" if self.name else "weight"

    @property
    def bias(self) -> str:
        """Name the bias has or would have."""
        return f"{self.name}.bias" if self.name else "bias"


def resolve_input_shape(model: nn.Module, input_shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """Shape of one input, taken from a leading linear layer if it is not given.

    Parameters
    ----------
    model : nn.Module
        Not run.
    input_shape : tuple of int or None
        Returned as it is, unless None.

    Returns
    -------
    tuple of int

    Raises
    ------
    NotApplicable
        If it is not given and the model does not begin with a linear layer.
    """
    if input_shape is not None:
        return input_shape
    first = next(
        (
            m
            for m in model.modules()
            if next(m.parameters(recurse=False), None) is not None and not list(m.children())
        ),
        None,
    )
    if isinstance(first, nn.Linear):
        return (first.in_features,)
    raise NotApplicable(
        "The model does not begin with a linear layer, so the attack needs input_shape=(C, H, W)."
    )


def linear_calls(
    model: nn.Module, input_shape: tuple[int, ...], samples: int = 8
) -> list[LinearCall]:
    """All linear layers that one forward pass calls once, in the order of the calls.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    input_shape : tuple of int
        Shape of one input.
    samples : int, default 8
        Number of standard normal inputs shown to the model.

    Returns
    -------
    list of LinearCall
        Empty if there is none.

    Raises
    ------
    NotApplicable
        If the model does not accept inputs of that shape.
    """
    private = copy.deepcopy(model).eval()
    names: dict[nn.Module, str] = {
        m: name for name, m in private.named_modules() if isinstance(m, nn.Linear)
    }
    calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {m: [] for m in names}
    order: list[nn.Module] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module].append((inputs[0].detach().clone(), output.detach().clone()))
        order.append(module)

    for linear in names:
        linear.register_forward_hook(record)
    x = random_inputs(private, input_shape, samples)
    try:
        with torch.no_grad():
            output = private(x)
    except RuntimeError as reason:
        raise NotApplicable(
            f"The model does not accept inputs of shape {input_shape}: {reason}"
        ) from reason
    found = []
    for module in order:
        if len(calls[module]) != 1:
            continue
        ((seen, returned),) = calls[module]
        place = model.get_submodule(names[module])
        assert isinstance(place, nn.Linear)
        found.append(
            LinearCall(
                name=names[module],
                module=place,
                at_input=_same(seen, x),
                at_output=_same(returned, output),
                per_sample=seen.dim() == 2 and len(seen) == samples,
                features=seen.reshape(-1, seen.shape[-1]).mean(0),
            )
        )
    return found


def random_inputs(model: nn.Module, input_shape: tuple[int, ...], count: int) -> Tensor:
    """Standard normal inputs on the model's device, the same on every call.

    Parameters
    ----------
    model : nn.Module
        Its first parameter gives device and dtype.
    input_shape : tuple of int
        Shape of one input.
    count : int
        Number of inputs.

    Returns
    -------
    Tensor of shape (count, *input_shape)
    """
    like = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *input_shape, generator=generator).to(like)


def bias_gradients(model: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    """The cross entropy's derivative by a linear layer's bias, for single samples of every class.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    layer : str
        Name of the layer; it need not have a bias.
    inputs : Tensor of shape (n, *input_shape)
        One sample each.

    Returns
    -------
    Tensor of shape (n, classes, units)
        In float64.
    """
    private = copy.deepcopy(model).eval().double()
    seen: list[Tensor] = []
    handle = private.get_submodule(layer).register_forward_hook(
        lambda _, __, output: seen.append(output)
    )
    try:
        logits = private(inputs.double())
    finally:
        handle.remove()
    losses = -logits.log_softmax(1).sum(0)  # (classes,), samples stay apart in the derivative
    rows = [
        torch.autograd.grad(loss, seen[0], retain_graph=True)[0].reshape(len(inputs), -1)
        for loss in losses
    ]
    return torch.stack(rows, 1).detach()


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
    """The batch size to work with, and its estimate from the gradient alone.

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
        None if the gradient does not show it.

    Raises
    ------
    NotApplicable
        If it is neither granted nor readable.
    """
    estimate = estimate_batch_size(problem.gradient, calls, problem.loss == "cross_entropy")
    granted = problem.knows.batch_size
    if granted is None and problem.knows.labels is not None:
        granted = len(problem.knows.labels)
    size = granted if granted is not None else estimate
    if size is None:
        raise NotApplicable(NO_BATCH_SIZE)
    return size, estimate


def _same(a: Tensor, b: Tensor) -> bool:
    return a.numel() == b.numel() and torch.equal(a.flatten(), b.flatten())
