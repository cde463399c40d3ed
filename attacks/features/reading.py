"""What the exact attack reads at an inner pair of linear layers: features, labels, their span.

The tail behind the front is a network like any other, whose private inputs are the features; the
exact attack returns them with certificates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacks.base import Problem, Reconstruction
from attacks.features.front import Tail
from attacks.features.newton import Span
from attacks.tensor.attack import TensorAttack
from attacks.tensor.layers import LinearPair


@dataclass(frozen=True)
class Features:
    """Inputs of an inner linear layer, read exactly.

    Attributes
    ----------
    values : Tensor of shape (n, F)
        In float64.
    certified : bool Tensor of shape (n,)
        By the exact attack.
    residual : Tensor of shape (n,)
        Of the exact attack's sample equation.
    labels : Tensor of shape (n,), optional
        None where the tail could not be followed to the model's output.
    complete : bool
        Whether every sample of the batch was found.
    batch_size : int, optional
        Estimate.
    bound : float
        Largest relative error that the gradient's noise can have caused.
    info : dict
        Diagnostics of the exact attack.
    """

    values: Tensor
    certified: Tensor
    residual: Tensor
    labels: Tensor | None
    complete: bool
    batch_size: int | None
    bound: float
    info: dict[str, Any]

    def __len__(self) -> int:
        return len(self.values)


def read_features(
    problem: Problem, pair: LinearPair, tail: Tail, exact: TensorAttack, tries: int = 4
) -> Features:
    """Run the exact attack on what follows the front.

    Parameters
    ----------
    problem : Problem
        The whole model's.
    pair : LinearPair
        Where the tail begins.
    tail : Tail
        What follows the front.
    exact : TensorAttack
        With its hyperparameters.
    tries : int, default 4
        Searches before an incomplete one is taken: which samples are missed depends on the order
        in which the others were found, and that on chance.

    Returns
    -------
    Features
        Of the search that found most.
    """
    best = _read_once(problem, pair, tail, exact)
    for _ in range(tries - 1):
        searched = best.info.get("rounds") and not best.info.get("interrupted")
        if best.complete or not searched:
            break
        other = _read_once(problem, pair, tail, exact)
        if len(other) > len(best) or other.info.get("interrupted"):
            best = other if len(other) > len(best) else best
            best.info["interrupted"] = other.info.get("interrupted", False)
    return best


def _read_once(problem: Problem, pair: LinearPair, tail: Tail, exact: TensorAttack) -> Features:
    found: Reconstruction = exact.run(
        tail.module,
        tail.gradient(problem.gradient),
        input_shape=(pair.in_features,),
        loss=problem.loss if tail.complete else "mse",  # no use is made of a lone pair's labels
        generator=problem.generator,
    )
    values = found.inputs.double()
    return Features(
        values=values,
        certified=found.certified,
        residual=found.residual,
        labels=found.labels if tail.complete else None,
        complete=0 < len(values) == found.info.get("rank"),
        batch_size=found.batch_size,
        bound=float(found.info.get("error_bound", float("inf"))),
        info=found.info,
    )


def joined_gradient(problem: Problem, layer: str) -> tuple[Tensor, bool]:
    """A linear layer's [dL/dW | dL/db] in float64, and whether it has a bias.

    Parameters
    ----------
    problem : Problem
        Holds the gradient.
    layer : str
        Name of the layer, whose weight's gradient is there.

    Returns
    -------
    gradient : Tensor of shape (m, F + 1), or (m, F) without a bias
    biased : bool
        Whether the last column is the bias' gradient.
    """
    gradient = problem.gradient[f"{layer}.weight"].double()
    bias = problem.gradient.get(f"{layer}.bias")
    if bias is None:
        return gradient, False
    return torch.cat([gradient, bias.double()[:, None]], 1), True


def row_space(problem: Problem, pair: LinearPair, rank: int) -> Span:
    """What the features span, as the gradient shows it.

    Parameters
    ----------
    problem : Problem
        Holds the gradient.
    pair : LinearPair
        Whose hidden layer saw the features.
    rank : int
        Dimension of the span, at most the number of singular values.

    Returns
    -------
    Span
        With a basis of shape (F + 1, rank), or (F, rank) without a bias.
    """
    gradient, biased = joined_gradient(problem, pair.hidden)
    _, S, Vh = torch.linalg.svd(gradient, full_matrices=False)
    noise = S[rank] if rank < len(S) else S.new_zeros(())
    return Span(basis=Vh[:rank].T.contiguous(), biased=biased, blur=noise / S[:rank])
