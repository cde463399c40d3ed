"""Gauss-Newton on one image at a time, and what its Jacobian proves.

The equations of an image x are that its features lie in the row space of the layer's gradient,

    r(x) = (I - V V') [front(x), 1] = 0,    G~ = [dL/dW | dL/db] = D [phi, 1],  span V = rows of G~,

F + 1 - B equations for n pixels, exact up to rounding. Nothing of the features that were read
enters, only the space they span: what the exact attack left mixed between samples of nearly the
same direction is sorted out here. Mixtures of features are no features: pairs (image, mixture) on
which the front's image meets the space again have dimension n + B - 1 - F < 0, generically none.
A layer that sees T vectors of each image has T such equations, for a space of all their dimension.

At a solution the Jacobian J says how far noise in the features can have moved the image. The part
of that noise outside J's range is the residual that is left, so its size is known: for noise of
standard deviation s = |r| / sqrt(F + 1 - B - n) per equation the error of the image has the
expected square s^2 trace (J'J)^-1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp, vmap

from attacks.features.front import Front
from attacks.tensor.certificate import LOOSEST, STRICTEST, WORST_ERROR

CHUNK = 128
DAMPING = 1e-9


@dataclass(frozen=True)
class Span:
    """Row space of the gradient of the layer behind the front.

    Attributes
    ----------
    basis : Tensor of shape (F + 1, B) or (F, B)
        Orthonormal, float64.
    biased : bool
        Whether a last coordinate 1 belongs to the features.
    blur : Tensor of shape (B,)
        How far noise has turned each basis vector: noise over singular value.
    """

    basis: Tensor
    biased: bool
    blur: Tensor

    def outside(self, rows: Tensor) -> Tensor:
        """(I - V V') rows, for (F + 1,) or (F + 1, k)."""
        return rows - self.basis @ (self.basis.T @ rows)

    def residual(self, features: Tensor) -> Tensor:
        """Of what the layer saw of one image, T vectors (T F,), relative to its length."""
        return self.outside(self._joined_rows(features)).flatten() / features.norm()

    def jacobian(self, features: Tensor, slopes: Tensor) -> Tensor:
        """Derivative of the residual by the pixels, its unit held fixed.

        Parameters
        ----------
        features : Tensor of shape (T F,)
            What the layer saw of one image; only its length matters.
        slopes : Tensor of shape (T F, n)
            Their own Jacobian.

        Returns
        -------
        Tensor of shape ((F + 1) T, n), or (F T, n) without a bias
            Rows in the order of `residual`.
        """
        width = len(self.basis) - int(self.biased)
        apart = slopes.reshape(-1, width, slopes.shape[1]).transpose(0, 1)  # (F, T, n)
        left = self.outside(self.joined(apart.flatten(1), 0.0))
        return left.reshape(-1, slopes.shape[1]) / features.norm()

    def expected(self, features: Tensor) -> float:
        """Relative residual that the gradient's noise leaves true features (T F,) with."""
        inside = self.basis.T @ self._joined_rows(features)
        return float((self.blur[:, None] * inside).norm() / features.norm())

    def joined(self, features: Tensor, last: float) -> Tensor:
        """Features with a last coordinate where the layer has a bias.

        Parameters
        ----------
        features : Tensor of shape (F,) or (F, k)
            One vector, or several as columns.
        last : float
            The last coordinate: 1 for features, 0 for their derivatives.

        Returns
        -------
        Tensor of shape (F + 1,) or (F + 1, k)
            The features as they are if the layer has no bias.
        """
        if not self.biased:
            return features
        return torch.cat([features, torch.full_like(features[:1], last)])

    def _joined_rows(self, features: Tensor) -> Tensor:
        """The T vectors as columns (F + 1, T)."""
        width = len(self.basis) - int(self.biased)
        return self.joined(features.reshape(-1, width).T, 1.0)


@dataclass(frozen=True)
class Solved:
    """Where Gauss-Newton ended, for one image.

    Attributes
    ----------
    x : Tensor of shape (n,)
    residual : float
        |r(x)|.
    spare : int
        Equations minus unknowns, at rank.
    weakest : float
        Lower bound of J's smallest singular value; zero if J has no full column rank.
    error : float
        Root mean square relative error of x that noise in the features can have caused, as far as
        the residual shows it; infinite if the pixels are not determined.
    """

    x: Tensor
    residual: float
    spare: int
    weakest: float
    error: float


def proved(end: Solved, span: Span, features: Tensor) -> bool:
    """Whether an image's equations hold up to the gradient's rounding and determine its pixels.

    Parameters
    ----------
    end : Solved
        Of one image.
    span : Span
        Of its features.
    features : Tensor of shape (T F,)
        Its features, float64.

    Returns
    -------
    bool
    """
    allowed = min(max(3 * span.expected(features), STRICTEST), LOOSEST)
    return end.residual <= allowed and end.weakest > 0 and end.error <= WORST_ERROR


def repeated(x: Tensor, certified: Tensor) -> Tensor:
    """Which images equal, within `WORST_ERROR`, an earlier one, both of them certified.

    Parameters
    ----------
    x : Tensor of shape (N, n)
        Images.
    certified : bool Tensor of shape (N,)

    Returns
    -------
    bool Tensor of shape (N,)
    """
    near = torch.cdist(x, x) < WORST_ERROR * x.norm(dim=1)
    both = near & certified & certified[:, None]
    return both.tril(-1).any(1)


def jacobian(front: Front, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Derivative of the features of one image by its pixels.

    Parameters
    ----------
    front : Front
        In the dtype of `x`.
    x : Tensor of shape (n,)
        The image.
    shape : tuple of int
        Its shape.

    Returns
    -------
    Tensor of shape (F, n), or (T F, n) where the layer sees T vectors of an image
    """

    def features(v: Tensor) -> Tensor:
        return front(v.reshape(1, *shape)).flatten()

    def column(tangent: Tensor) -> Tensor:
        return jvp(features, (x,), (tangent,))[1]

    directions = torch.eye(len(x), dtype=x.dtype, device=x.device).split(CHUNK)
    return torch.cat([vmap(column)(part) for part in directions]).T


def polish(
    front: Front, span: Span, x: Tensor, shape: tuple[int, ...], jacobians: int = 6
) -> Solved:
    """Solve an image's equations from nearby, and weigh the solution.

    A Jacobian is used, by the chord method, for as long as it halves the residual; a new one is
    made if the last one halved it and noise does not explain what is left.

    Parameters
    ----------
    front : Front
        Residuals are computed in float64, Jacobians in float32.
    span : Span
        Of the features.
    x : Tensor of shape (n,)
        Start, float64.
    shape : tuple of int
        Of one image.
    jacobians : int, default 6
        Most Jacobians to make.

    Returns
    -------
    Solved
        Never with a larger residual than at the start.
    """
    exact, coarse = front.to(torch.float64), front.to(torch.float32)

    def seen(point: Tensor) -> Tensor:
        with torch.no_grad():
            return exact(point.reshape(1, *shape)).flatten()

    r = span.residual(seen(x))
    low = float(r.norm())
    normal = x.new_zeros(len(x), len(x))
    for _ in range(jacobians):
        J = span.jacobian(seen(x), jacobian(coarse, x.float(), shape).double())
        normal, before = J.T @ J, low
        inverse = _damped(normal)
        while True:
            ahead = x - torch.cholesky_solve((J.T @ r)[:, None], inverse)[:, 0]
            r_ahead = span.residual(seen(ahead))
            reached = float(r_ahead.norm())
            halved = reached < 0.5 * low
            if reached < low:
                x, r, low = ahead, r_ahead, reached
            if not halved:
                break
        if low > 0.5 * before or low <= span.expected(seen(x)):
            break
    rows = len(r) // len(span.basis)
    spare = len(r) - rows * span.basis.shape[1] - len(x)
    weakest, spread = conditioning(normal, torch.finfo(torch.float32).eps)
    error = float("inf")
    if spare > 0:
        error = low / spare**0.5 * spread / max(float(x.norm()), 1e-300)
    return Solved(x, low, spare, weakest, error)


def _damped(normal: Tensor) -> Tensor:
    """Cholesky factor of J'J with as little added to its diagonal as makes it positive."""
    eye = torch.eye(len(normal), dtype=normal.dtype, device=normal.device)
    ridge = DAMPING * float(normal.diagonal().mean()) + 1e-300
    while True:
        factor, fault = torch.linalg.cholesky_ex(normal + ridge * eye)
        if not int(fault):
            return factor
        ridge *= 100


def conditioning(normal: Tensor, precision: float) -> tuple[float, float]:
    """Lower bound of J's smallest singular value, and sqrt trace (J'J)^-1.

    The trace of the inverse bounds its largest eigenvalue: sigma_min >= 1 / sqrt trace (J'J)^-1.

    Parameters
    ----------
    normal : Tensor of shape (n, n)
        J'J.
    precision : float
        Relative precision of J.

    Returns
    -------
    weakest : float
        Zero if J'J is singular to working precision.
    spread : float
        Infinite then.
    """
    factor, fault = torch.linalg.cholesky_ex(normal)
    if int(fault):
        return 0.0, float("inf")
    eye = torch.eye(len(normal), dtype=normal.dtype, device=normal.device)
    spread = float(torch.linalg.solve_triangular(factor, eye, upper=False).norm())
    trusted = 1 / spread > precision * float(torch.linalg.matrix_norm(normal)) ** 0.5
    return (1 / spread, spread) if trusted else (0.0, float("inf"))
