"""The founding paper's estimator: inputs as components of averaged Hermite tensors.

Wang, Lee and Lei, "Reconstructing Training Data from Model Gradient, Provably" (AISTATS 2023, arXiv
2212.03714): average the gradient of f(x) = sum_j a_j s(w_j . x), a_j = 1/m, w_j ~ N(0, I), against
Hermite tensors of w_j. The second moment P = sum_i r_i E[s^(2)] x_i x_i' gives the span of the
inputs; the third, projected to that span, T = sum_i r_i E[s^(3)] x_i^(x)3, the inputs themselves.
Where the activation makes one of them vanish, the moment one order higher takes its place,
contracted with a fixed vector. The error falls as sqrt(d/m), so nothing is ever certified;
`TensorAttack` is exact on the same gradient.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from attacks.base import Attack, NotApplicable, Problem, Reconstruction, in_layers
from attacks.reading.private import private_copy
from attacks.tensor.attack import layer_gradient, nothing, readable_pair
from attacks.tensor.decomposition import rebuild, symmetric_cp
from attacks.tensor.hermite import contracted_moment, gaussian_moments, stein_moment
from attacks.tensor.labels import read_labels
from attacks.tensor.layers import LinearPair
from attacks.tensor.scalar_model import ScalarModel, scalar_model
from attacks.tensor.subspace import numerical_rank

Source = Literal["hidden", "outgoing"]
Probe = Literal["diagonal", "random", "gradient"]
Second = Literal["auto", "second", "third"]

WEAK = 0.01
"""Share of the largest moment below which one is passed over for the next order."""
VANISHING = 1e-7
"""Share below which a moment is zero."""


class PublishedTensorAttack(Attack):
    """The moment estimator of arXiv 2212.03714 on Linear - activation - Linear.

    The defaults are the paper's; `probe="gradient"` and `centre=True` are variance reductions that
    the paper does not have.

    Parameters
    ----------
    source : "hidden" or "outgoing", default "hidden"
        Average dL/dw_j (the better one) or dL/da_j.
    subspace : "auto", "second" or "third", default "auto"
        The span of the inputs from P = T_2, from P = T_3(I, I, a), or from T_2 unless the
        activation makes it vanish.
    probe : "diagonal", "random" or "gradient", default "diagonal"
        The unit vector a: (1, .., 1)/sqrt(d), a random direction, or the averaged gradient.
    projections : int, default 100
        Random contractions in the tensor decomposition (the paper's L).
    components : int, default 64
        Most samples estimated; bounds memory at components^3 where noise hides the batch size.
    centre : bool, default False
        Subtract the average gradient first. H_k has mean zero, so this changes the estimate's
        variance, not its mean.

    Raises
    ------
    ValueError
        If one of the choices is unknown, or `projections` or `components` below 1.
    """

    def __init__(
        self,
        source: Source = "hidden",
        subspace: Second = "auto",
        probe: Probe = "diagonal",
        projections: int = 100,
        components: int = 64,
        centre: bool = False,
    ) -> None:
        for name, value, kind in (
            ("source", source, Source),
            ("subspace", subspace, Second),
            ("probe", probe, Probe),
        ):
            if value not in get_args(kind):
                raise ValueError(f"{name}={value!r} is not one of {', '.join(get_args(kind))}.")
        for name, number in (("projections", projections), ("components", components)):
            if number < 1:
                raise ValueError(f"{name}={number} must be at least 1.")
        self.source = source
        self.subspace = subspace
        self.probe = probe
        self.projections = projections
        self.components = components
        self.centre = centre

    def reconstruct(self, problem: Problem) -> Reconstruction:
        """Estimate the batch; see `Attack.run`.

        Raises
        ------
        NotApplicable
            If `readable_pair` or `scalar_model` finds nothing to read, if the moments that are
            needed vanish, or if the batch exceeds the hidden units or their weights' dimensions.
        """
        problem = in_layers(problem)
        pair = readable_pair(problem)
        view = scalar_model(layer_gradient(problem, pair))
        moments = gaussian_moments(pair.activation.function, pair.activation.kinks, std=view.std)
        scaled = [value * view.std**k for k, value in enumerate(moments, 1)]
        second, third = choose_orders(scaled, self.subspace)
        observed = view.hidden if self.source == "hidden" else view.outgoing
        if not bool((observed != 0).any()):
            return nothing(problem, pair, {"rank": 0, "reason": "the gradient vanishes"})
        field = observed - observed.mean(0) if self.centre else observed
        a = self._direction(view.points, observed, problem.generator)
        P = span_matrix(view.points, field, second, a)
        size = problem.knows.batch_size or batch_size(observed, P, view.precision)
        if size > min(P.shape[0], len(view.points)):
            raise NotApplicable(
                f"A batch of {size} cannot be told apart in {P.shape[0]} dimensions with "
                f"{len(view.points)} hidden units."
            )
        count = min(size, self.components)
        V = leading_eigenvectors(P, count)
        T = projected_tensor(view.points, field, third, V, a)
        factors, weights = symmetric_cp(T, count, self.projections, problem.generator)
        directions = (V @ factors).T
        misfit = float((T - rebuild(factors, weights)).norm() / T.norm().clamp_min(1e-300))
        info = {
            "hidden_layer": pair.hidden,
            "activation": pair.activation.kind,
            "moments": moments,
            "orders": [second, third],
            "misfit": misfit,
            "rank": size,
        }
        return _finish(problem, pair, view, directions, info)

    def _direction(self, points: Tensor, observed: Tensor, generator: torch.Generator) -> Tensor:
        """The unit vector a."""
        if self.probe == "gradient":
            a = stein_moment(points, observed, 1)
        elif self.probe == "random":
            draw = torch.randn(points.shape[1], generator=generator, dtype=torch.float64)
            a = draw.to(points)
        else:
            a = torch.ones_like(points[0])
        return a / a.norm().clamp_min(1e-300)


def batch_size(observed: Tensor, P: Tensor, precision: float) -> int:
    """Rank of dL/dW; from dL/da, or if noise fills every rank, the largest gap in P's spectrum.

    Parameters
    ----------
    observed : Tensor of shape (m, n) or (m,)
        dL/dW or dL/da.
    P : Tensor of shape (n, n)
        Symmetric; from `span_matrix`.
    precision : float
        Unit roundoff of the observed gradient.

    Returns
    -------
    int
        At least 1.
    """
    if observed.dim() == 2:
        rank = numerical_rank(torch.linalg.svdvals(observed), precision)
        if 0 < rank < min(observed.shape):
            return rank
    spectrum = torch.linalg.eigvalsh(P).abs().sort(descending=True).values
    half = spectrum[: max(2, (len(spectrum) + 1) // 2)]
    gaps = half[:-1] / half[1:].clamp_min(1e-300)
    return int(gaps.argmax()) + 1 if len(gaps) else 1


def choose_orders(moments: list[float], subspace: Second = "auto") -> tuple[int, int]:
    """Orders of the moments for the span (2 or 3) and for the inputs (3 or 4).

    The lower one where it is alive, the higher one where the lower is (nearly) zero.

    Parameters
    ----------
    moments : list of four floats
        E[s(z) He_k(z / std)] = std^k E s^(k)(z), k = 1 .. 4: free of the scale of z.
    subspace : "auto", "second" or "third"
        "second" and "third" force the first of the two.

    Returns
    -------
    tuple of two ints
        For the span, and for the inputs.

    Raises
    ------
    NotApplicable
        If the moments that could serve vanish, as for a linear or quadratic activation.
    """
    scale = max(abs(value) for value in moments)
    strength = {k: abs(value) / max(scale, 1e-300) for k, value in enumerate(moments, 1)}
    third = 3 if strength[3] > WEAK or strength[3] > strength[4] else 4
    if strength[third] < VANISHING:
        raise NotApplicable(
            "The third and fourth moments of the activation vanish, as for a linear or quadratic "
            "one: its batches are not identifiable from tensors up to order 4."
        )
    second = 2 if strength[2] > WEAK or strength[2] > strength[3] else 3
    second = {"auto": second, "second": 2, "third": 3}[subspace]
    if strength[second] < VANISHING:
        raise NotApplicable(f"The moment of order {second} vanishes for this activation.")
    return second, third


def leading_eigenvectors(P: Tensor, count: int) -> Tensor:
    """Eigenvectors of a symmetric matrix with the largest absolute eigenvalues, (n, count).

    Parameters
    ----------
    P : Tensor of shape (n, n)
        Symmetric.
    count : int
        How many, at most n.

    Returns
    -------
    Tensor of shape (n, count)
        Orthonormal columns, by decreasing absolute eigenvalue.
    """
    values, vectors = torch.linalg.eigh(P)
    return vectors[:, values.abs().argsort(descending=True)[:count]]


def span_matrix(points: Tensor, field: Tensor, order: int, a: Tensor) -> Tensor:
    """P, whose leading eigenvectors span the inputs: T_2 or T_3(I, I, a), of shape (n, n).

    Parameters
    ----------
    points : Tensor of shape (m, n)
        Weights.
    field : Tensor of shape (m,) or (m, n)
        Gradient.
    order : int
        2 or 3.
    a : Tensor of shape (n,)
        Unit vector; used for order 3 only.

    Returns
    -------
    Tensor of shape (n, n)
        Symmetric.
    """
    if order == 2:
        return stein_moment(points, field, 2)
    return contracted_moment(points, field, 3, a)


def projected_tensor(points: Tensor, field: Tensor, order: int, V: Tensor, a: Tensor) -> Tensor:
    """T_3(V, V, V), or T_4(V, V, V, a) with a projected to the span of V.

    Off that span a would meet nothing but noise.

    Parameters
    ----------
    points : Tensor of shape (m, n)
        Weights.
    field : Tensor of shape (m,) or (m, n)
        Gradient.
    order : int
        3 or 4.
    V : Tensor of shape (n, B)
        Orthonormal columns.
    a : Tensor of shape (n,)
        Unit vector.

    Returns
    -------
    Tensor of shape (B, B, B)
    """
    inside = field if field.dim() == 1 else field @ V
    if order == 3:
        return stein_moment(points @ V, inside, 3)
    a = V.T @ a
    return contracted_moment(points @ V, inside, 4, a / a.norm().clamp_min(1e-300))


def _finish(
    problem: Problem, pair: LinearPair, view: ScalarModel, directions: Tensor, info: dict[str, Any]
) -> Reconstruction:
    flat, residuals, fit = view.orient(pair.activation.function, directions)
    n = len(flat)
    shape = problem.input_shape or (pair.in_features,)
    inputs = flat.reshape(n, *shape)
    dtype = problem.gradient[f"{pair.hidden}.weight"].dtype
    labels = None
    outgoing = problem.model.get_submodule(pair.outgoing)
    if problem.loss == "mse" and pair.at_output and getattr(outgoing, "out_features", 0) == 1:
        model = private_copy(problem.model).eval().double()
        delta = residuals[:, None]
        size = info["rank"]
        labels = read_labels(model, pair.outgoing, inputs, delta, "mse", size).labels
        assert labels is not None  # squared loss has targets
        labels = labels.to(dtype)
        info |= {"residuals": residuals.tolist(), "signs": residuals.sign().tolist()}
    return Reconstruction(
        inputs=inputs.to(dtype),
        labels=labels,
        certified=torch.zeros(n, dtype=torch.bool, device=flat.device),
        residual=fit.to(dtype).expand(n).clone(),
        batch_size=info["rank"],
        info=info,
    )
