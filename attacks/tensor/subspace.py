"""What linear algebra alone reads from a gradient: batch size, row space, space of the errors.

The first layer's gradient G~ = [dL/dW | dL/db] = D X~ has as many singular values above its
rounding noise as the batch has distinct samples, and its row space is their span. The second
layer's gradient dL/dA = sum_i delta_i s(W x_i)' holds every back-propagated error delta_i in its
column space.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NOISE = 1e-5
"""Share of the largest singular value above which what the rank leaves over counts as noise, unless
the entries' own unit roundoff is more."""
FAINT = 0.3
"""Singular values, in unit roundoffs of the largest, above which errors may be behind them."""


@dataclass(frozen=True)
class LayerGradient:
    """Two linear layers' parameters and gradients in float64, biases appended as a last column.

    Attributes
    ----------
    weight : Tensor of shape (m, d + 1) or (m, d)
        First layer's [W | b], or W alone if it has no bias.
    gradient : Tensor of shape (m, d + 1) or (m, d)
        Its gradient.
    outgoing : Tensor of shape (C, m)
        Second layer's weight A.
    outgoing_gradient : Tensor of shape (C, m)
        Its gradient.
    biased : bool
        Whether the last column is a bias.
    precision : float
        Unit roundoff of the dtype the client computed in: the coarser of the gradient's (weights
        that were sent back may have become one in float64) and the model's.
    errors : Tensor of shape (C, k), optional
        Orthonormal basis of the space the errors are known to lie in; None if it is all of it.
    pruned : bool
        Whether entries were missing: then the gradient is a completed one, and the second layer's
        zeros are unknown.
    """

    weight: Tensor
    gradient: Tensor
    outgoing: Tensor
    outgoing_gradient: Tensor
    biased: bool
    precision: float
    errors: Tensor | None = None
    pruned: bool = False


@dataclass(frozen=True)
class GradientSpace:
    """The spaces of a `LayerGradient`.

    Attributes
    ----------
    Q : Tensor of shape (m, B)
        Orthonormal basis of the column space: of the columns D_i.
    S : Tensor of shape (B,)
        Singular values, decreasing.
    V : Tensor of shape (d + 1, B + open) or (d, B + open)
        Orthonormal basis of the row space: of the samples x~_i.
    last : Tensor of shape (B + open,), optional
        ``last @ x == 1`` for every sample in the coordinates of V. None without biases.
    U : Tensor of shape (m, K)
        Orthonormal basis of A' restricted to the delta space.
    to_delta : Tensor of shape (C, K)
        Turns coordinates with respect to U into errors: A' (to_delta c) == U c.
    noise : float
        Largest singular value that belongs to the noise.
    norm : float
        Typical Euclidean norm of x~.
    open : int
        Number of inputs whose gradients were left out: the last columns of V, one for each.
    white : bool
        Whether what the samples leave over of the spectrum looks like white noise.
    wider : Tensor of shape (m, K'), optional
        Orthonormal basis that contains U and also what the spectrum, cut at its widest gap, may
        have hidden of the errors. None where nothing was cut.
    """

    Q: Tensor
    S: Tensor
    V: Tensor
    last: Tensor | None
    U: Tensor
    to_delta: Tensor
    noise: float
    norm: float
    open: int = 0
    white: bool = False
    wider: Tensor | None = None

    @property
    def rank(self) -> int:
        """Number of distinct samples the gradient holds."""
        return len(self.S)

    def lengths(self, points: Tensor) -> Tensor:
        """Euclidean norms of inputs, without the one that stands for the bias.

        Parameters
        ----------
        points : Tensor of shape (n, B + open)
            Samples x~ in the coordinates of V.

        Returns
        -------
        Tensor of shape (n,)
        """
        if self.last is None:
            return points.norm(dim=1)
        return (points @ self.V[:-1].T).norm(dim=1)

    @property
    def noisy(self) -> bool:
        """Whether what the rank leaves over is more than rounding makes."""
        return self.noise > NOISE * float(self.S[0])


def gradient_space(layer: LayerGradient, size: int | None = None) -> GradientSpace:
    """Factorise a layer's gradient.

    Parameters
    ----------
    layer : LayerGradient
        In float64.
    size : int, optional
        Number of samples, if that is known; used where noise hides some of them, and for a
        completed gradient.

    Returns
    -------
    GradientSpace
        With rank 0 for a vanishing gradient.
    """
    Q, S, Vh = torch.linalg.svd(layer.gradient, full_matrices=False)
    alive, longer = _alive(layer, S)
    rank = numerical_rank(alive, layer.precision, longer)
    above = max(NOISE, layer.precision) * float(S[0]) if len(S) else 0.0
    noisy = rank < len(alive) and float(S[rank]) > above
    white = len(alive) > 0 and noisy_rank(alive, longer, otherwise=-1) >= 0
    if layer.pruned and size is not None:
        rank = min(size, len(alive))
    elif noisy:
        rank = noisy_rank(alive, longer, rank) if size is None else size
        rank = min(rank, len(alive))
    noise = float(S[rank]) if rank < len(S) else float(S[0]) * layer.precision
    (U, to_delta), wider = _error_space(layer, rank, noisy)
    V = Vh[:rank].T
    return GradientSpace(
        Q=Q[:, :rank].contiguous(),
        S=S[:rank],
        V=V,
        last=V[-1] if layer.biased else None,
        U=U,
        to_delta=to_delta,
        noise=noise,
        norm=_typical_norm(layer),
        white=white,
        wider=wider,
    )


def _alive(layer: LayerGradient, S: Tensor) -> tuple[Tensor, int]:
    """Singular values and longer side, without the rows and columns of dead units.

    These hold no noise and must not lower its estimate.
    """
    rows, columns = (int(layer.gradient.any(side).sum()) for side in (1, 0))
    return S[: min(rows, columns)], max(rows, columns)


def _error_space(
    layer: LayerGradient, rank: int, noisy: bool
) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
    """Space of the back-propagated errors: (U, to_delta) and `wider` of `GradientSpace`.

    Its dimension shows in the spectrum of the second layer's gradient; under noise it is as large
    as the batch and the loss allow. What is known of it beforehand cuts noise off, and takes its
    place where not all of it is seen: errors that cancel in the sum all but vanish from that
    spectrum, and in a space too small for them the mean of two samples fits as well as either.
    """
    known = layer.errors
    if layer.pruned:
        U2 = torch.eye(len(layer.outgoing)).to(layer.outgoing) if known is None else known
        return _restricted(layer, U2), None
    observed = layer.outgoing_gradient
    if known is not None:
        observed = known @ (known.T @ observed)
    U2, S2, _ = torch.linalg.svd(observed, full_matrices=False)
    count = min(len(U2) if known is None else known.shape[1], max(rank, 1))
    seen = count if noisy else min(numerical_rank(S2, layer.precision), count)
    if seen < count and known is not None and 2 * (rank + known.shape[1]) <= len(layer.weight):
        return _restricted(layer, known), None
    faint = min(int((FAINT * layer.precision * S2[:1] < S2).sum()), count)
    widest = U2[:, : max(faint, seen)] if known is None else known
    hidden = count > seen and widest.shape[1] > seen
    return _restricted(layer, U2[:, :seen]), _restricted(layer, widest)[0] if hidden else None


def _restricted(layer: LayerGradient, U2: Tensor) -> tuple[Tensor, Tensor]:
    """A' restricted to an orthonormal basis of the error space."""
    U, R = torch.linalg.qr(layer.outgoing.T @ U2)
    if len(R) < R.shape[1]:  # fewer hidden units than errors have dimensions
        return U, U2 @ torch.linalg.pinv(R)
    return U, torch.linalg.solve_triangular(R.T, U2.T, upper=False).T


def noisy_rank(S: Tensor, longer: int, otherwise: int) -> int:
    """Number of singular values above white noise, if the low end of a spectrum is white noise.

    White noise follows the Marchenko-Pastur law: then its median is where the lowest eighth says,
    and its edge is sharp up to fluctuations of order p^(-2/3).

    Parameters
    ----------
    S : Tensor of shape (p,)
        Singular values, decreasing.
    longer : int
        The longer side of the matrix.
    otherwise : int
        What to return if the noise is not white.

    Returns
    -------
    int
        At most p // 3, or `otherwise`.
    """
    p = len(S)
    edge = noise_edge(S, longer)
    above = int(((1 + 2 * p ** (-2 / 3)) * edge < S).sum())
    if above > p // 3 or not edge > 0:
        return otherwise
    bulk = S[above:]
    median = float(bulk[len(bulk) // 2])
    expected = edge * noise_quantile(p / longer, 0.5) / noise_quantile(p / longer, 1.0)
    return above if abs(median / expected - 1) < 0.05 else otherwise


def numerical_rank(S: Tensor, precision: float, longer: int | None = None) -> int:
    """Number of singular values that stand above the noise.

    The noise level comes from the low end of the spectrum, by the Marchenko-Pastur law. What is
    thirty times above its edge counts in any case, what is below it never does, and in between the
    largest gap decides: rounding noise is not white, so its edge is not sharp.

    Parameters
    ----------
    S : Tensor of shape (p,)
        Singular values, decreasing.
    precision : float
        Unit roundoff of the matrix' entries.
    longer : int, optional
        The longer side of the matrix, of which p is the shorter. By default only rounding counts
        as noise, for spectra too short to show a noise level of their own.

    Returns
    -------
    int
        Between 0 and p.
    """
    if len(S) == 0 or not float(S[0]) > 0:
        return 0
    rounding = 0.1 * precision * float(S[0])
    edge = rounding if longer is None else max(noise_edge(S, longer), rounding)
    least = max(1, int((30 * edge < S).sum()))
    most = max(least, int((1.03 * edge < S).sum()))
    padded = torch.cat([S, S.new_tensor([rounding])]).clamp_min(rounding)
    gaps = padded[:-1] / padded[1:]
    return least + int(gaps[least - 1 : most].argmax())


def noise_edge(S: Tensor, longer: int) -> float:
    """Largest singular value white noise would have, judged by the lowest eighth of the spectrum.

    Parameters
    ----------
    S : Tensor of shape (p,)
        Singular values of a p x longer (or longer x p) matrix, decreasing.
    longer : int
        The longer side.

    Returns
    -------
    float
    """
    p = len(S)
    low = noise_quantile(p / longer, 1 / 8)
    return float(S[p * 7 // 8]) * noise_quantile(p / longer, 1.0) / low


def noise_quantile(aspect: float, share: float) -> float:
    """Quantile of the singular values of white noise, by the Marchenko-Pastur law.

    Parameters
    ----------
    aspect : float
        Shorter over longer side of the matrix, in (0, 1].
    share : float
        Share of the singular values below, in [0, 1].

    Returns
    -------
    float
        In units of the noise's standard deviation times the root of the longer side.
    """
    low, high = (1 - aspect**0.5) ** 2, (1 + aspect**0.5) ** 2
    if share >= 1:
        return high**0.5
    x = torch.linspace(low, high, 4001, dtype=torch.float64)[1:-1]
    mass = torch.cumsum(torch.sqrt((high - x) * (x - low)) / x, 0)
    return float(x[int((mass < mass[-1] * share).sum())]) ** 0.5


def _typical_norm(layer: LayerGradient) -> float:
    """Root mean square of |x~|: dL/dW over dL/db, since the rows mix samples with random signs.

    Without biases there is no such yardstick; then the norm that makes pre-activations of size one.
    """
    if not layer.biased:
        return layer.weight.numel() ** 0.5 / float(layer.weight.norm())
    bias = float(layer.gradient[:, -1].norm())
    return float(layer.gradient.norm()) / bias if bias > 0 else 1.0
