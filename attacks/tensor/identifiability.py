"""Can a batch of this size be told from its gradient at all? Numbers, and the answer in words.

Three things decide it (Wang, Lee and Lei 2023, arXiv 2212.03714). The activation: a
linear or quadratic one leaves only sums of x_i or of x_i x_i' in the gradient, and infinitely many
batches share those. Counting: each sample has B - 1 + K unknowns in m equations, and B samples need
B dimensions to be independent in. And, for scale and sign of an input, biases or an activation that
is neither homogeneous nor odd.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.reading.losses import Loss, understood
from attacks.reading.private import private_copy
from attacks.tensor.activation import Activation, Kind
from attacks.tensor.hermite import gaussian_moments
from attacks.tensor.layers import input_pair
from attacks.tensor.symmetry import is_homogeneous, is_odd, polynomial_degree

ILL_CONDITIONED = 1e3
"""Condition number of the first layer's weights from which it is mentioned."""
ROOMY = 3
"""Hidden units per sample below which the search gets hard."""
EXACT_SIDE = 1024
"""Shorter side of the weights up to which their condition is computed in float64."""


@dataclass(frozen=True)
class Identifiability:
    """What one gradient of a model can reveal, at best.

    Attributes
    ----------
    identifiable : bool
        Whether the batch (or, without a batch size, some batch) is determined by its gradient, for
        inputs in general position.
    explanation : str
        Why, in words.
    batch_size, largest_batch : int
        The one asked about, if any, and the largest one that counting allows; 0 if none.
    hidden : str
        Name of the first linear layer.
    width, features, errors : int
        m, d and K: hidden units, inputs, dimension of the back-propagated errors.
    activation : str
        Its kind: "linear", "quadratic", "piecewise linear", "smooth" or "mixed".
    degree : int, optional
        Its degree if it is a polynomial.
    moments : tuple of four floats
        E s^(k)(z) for z ~ N(0, 1) and k = 1 .. 4.
    scale_known, sign_known : bool
        Whether norms and signs of the inputs follow too.
    condition : float
        Condition number of the first weight matrix; infinite if it is rank deficient.
    """

    identifiable: bool
    explanation: str
    batch_size: int | None
    largest_batch: int
    hidden: str
    width: int
    features: int
    errors: int
    activation: Kind
    degree: int | None
    moments: tuple[float, ...]
    scale_known: bool
    sign_known: bool
    condition: float

    def __str__(self) -> str:
        moments = ", ".join(f"{round(value, 4) + 0.0:.4f}" for value in self.moments)
        degree = "" if self.degree is None else f", a polynomial of degree {self.degree}"
        return (
            f"{self.explanation}\n"
            f"  first layer {self.hidden!r}: m = {self.width} units, d = {self.features} inputs, "
            f"condition number {self.condition:.3g}\n"
            f"  activation: {self.activation}{degree}; E s', s'', s''', s'''' = {moments}\n"
            f"  back-propagated errors: K = {self.errors} dimensions; "
            f"largest batch by counting: {self.largest_batch}"
        )


def identifiability(
    model: nn.Module,
    batch_size: int | None = None,
    input_shape: tuple[int, ...] | None = None,
    loss: Loss = "cross_entropy",
) -> Identifiability:
    """Whether a batch can be identified from one gradient of a model, and why.

    Parameters
    ----------
    model : nn.Module
        Begins with Linear - elementwise activation - Linear; left as it was found.
    batch_size : int, optional
        The batch asked about; by default the largest possible one is named.
    input_shape : tuple of int, optional
        Shape of one input, for models that cannot be traced.
    loss : str or callable, default "cross_entropy"
        The clients' loss, as for `Attack.run`.

    Returns
    -------
    Identifiability
        Printing it gives the answer and the numbers behind it.

    Raises
    ------
    ValueError
        If the batch size is below 1 or the loss unknown.
    NotApplicable
        If the model does not begin that way.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    loss = understood(loss, private_copy(model), input_shape)
    pair = input_pair(model, input_shape)
    hidden, outgoing = model.get_submodule(pair.hidden), model.get_submodule(pair.outgoing)
    assert isinstance(hidden, nn.Linear)
    assert isinstance(outgoing, nn.Linear)
    m, d = hidden.out_features, hidden.in_features
    errors = outgoing.out_features - int(loss == "cross_entropy" and pair.at_output)
    curved = pair.activation.kind not in ("linear", "quadratic")
    largest = largest_batch(m, d, errors) if curved else 0
    asked = largest if batch_size is None else batch_size
    biased = hidden.bias is not None
    function, device = pair.activation.function, hidden.weight.device
    scale_known = biased or not is_homogeneous(function, device)
    sign_known = biased or not is_odd(function, device)
    condition = condition_number(hidden.weight.detach())
    reason = _verdict(pair.activation, asked, largest, m, d, min(errors, max(asked, 1)))
    identifiable = 1 <= asked <= largest
    caveats = _caveats(biased, scale_known, sign_known, condition) if identifiable else []
    if identifiable and m < ROOMY * asked:
        caveats.append(
            f"This is what counting allows; the search for the samples gets "
            f"hard below {ROOMY} hidden units per sample."
        )
    return Identifiability(
        identifiable=identifiable,
        explanation=" ".join([reason, *caveats]),
        batch_size=batch_size,
        largest_batch=largest,
        hidden=pair.hidden,
        width=m,
        features=d,
        errors=errors,
        activation=pair.activation.kind,
        degree=polynomial_degree(function, device),
        moments=tuple(gaussian_moments(function, pair.activation.kinks)),
        scale_known=scale_known,
        sign_known=sign_known,
        condition=condition,
    )


def largest_batch(m: int, d: int, errors: int) -> int:
    """Largest B with B <= min(m, d) and B + min(B, K) < m; 0 if there is none.

    Parameters
    ----------
    m : int
        Hidden units.
    d : int
        Inputs.
    errors : int
        K, dimension of the back-propagated errors.

    Returns
    -------
    int
        Between 0 and min(m, d).
    """
    few = max(0, m - 1 - errors)  # where B >= K
    return max(0, min(m, d, max(few, min(errors, (m - 1) // 2)))) if errors > 0 else 0


def _verdict(activation: Activation, asked: int, largest: int, m: int, d: int, errors: int) -> str:
    if activation.kind == "linear":
        return (
            "Not identifiable: the activation is linear, so the gradient depends on the batch only "
            "through weighted sums of its inputs, which infinitely many other batches share."
        )
    if activation.kind == "quadratic":
        return (
            "Not identifiable: the activation is quadratic, so the gradient depends on the batch "
            "only through weighted sums of x x' and x, which every rotation of the batch among "
            "itself leaves alone."
        )
    if largest == 0:
        return f"Not identifiable: {m} hidden units and {d} inputs are too few for any batch."
    if asked > min(m, d):
        return (
            f"Not identifiable: a batch of {asked} cannot be linearly independent in a gradient of "
            f"{m} x {d}; at most {largest} can."
        )
    if asked > largest:
        return (
            f"Not identifiable: a batch of {asked} leaves {asked} + {errors} unknowns per sample, "
            f"not fewer than the {m} equations; at most {largest} can be told apart."
        )
    return (
        f"Identifiable: with a {activation.kind} activation a batch of {asked} leaves "
        f"{asked} + {errors} unknowns per sample against {m} equations, and fits the "
        f"{min(m, d)} dimensions of a {m} x {d} gradient."
    )


def _caveats(biased: bool, scale_known: bool, sign_known: bool, condition: float) -> list[str]:
    said = []
    if biased:
        said.append("The biases fix norm and sign of every input.")
    if not scale_known:
        said.append(
            "Without biases a homogeneous activation reveals inputs only up to a positive factor."
        )
    if not sign_known:
        said.append(
            "Without biases an odd activation cannot tell an input from its negative with the "
            "opposite error."
        )
    if condition > ILL_CONDITIONED:
        said.append(
            "The first weight matrix is badly conditioned: directions it hardly sees are "
            "determined in theory but lost in rounding."
        )
    return said


def condition_number(W: Tensor) -> float:
    """Ratio of the extreme singular values of a matrix, from its smaller Gram matrix.

    Sides above 1024 are done in single precision, to three digits and in half the time.
    """
    side = min(W.shape)
    W = W.to(torch.float64 if side <= EXACT_SIDE else torch.float32)
    gram = W @ W.T if W.shape[0] < W.shape[1] else W.T @ W
    values = torch.linalg.eigvalsh(gram)
    low, high = float(values[0]), float(values[-1])
    floor = 8 * torch.finfo(W.dtype).eps * high
    return (high / low) ** 0.5 if low > floor else float("inf")
