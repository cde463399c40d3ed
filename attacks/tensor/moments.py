"""Stein's identity on the gradient: slices of a tensor whose components are the samples.

Row j of the gradient is sum_i s'(w_j . x_i) (u_j . delta_i) x_i. For near-Gaussian weights Stein's
identity gives E[s'(w . x) w] = E[s''] x, so regressing the rows on the features u_jk w_j leaves

    T_k = sum_i (delta_i)_k E[s''] x_i x_i',

one symmetric slice per direction k of the delta space, all with the samples as common factors. If
E[s''] vanishes (tanh, sigmoid at symmetric biases) one order more helps: the features
u_jk (q . w_j) w_j with any fixed q leave sum_i (delta_i)_k E[s'''] (q . x_i) x_i x_i'. This is the
founding paper's step (Wang, Lee and Lei 2023, section 3) with the exact subspaces of the gradient
in place of estimated ones, and least squares in place of averages.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.tensor.activation import Slope


def moment_slices(
    R: Tensor, U: Tensor, W: Tensor, *, odd: bool, generator: torch.Generator
) -> Tensor:
    """Slices T_k by ridge regression of the gradient's rows on Stein features.

    Parameters
    ----------
    R : Tensor of shape (m, k)
        The gradient in orthonormal coordinates of (what is left of) its row space.
    U : Tensor of shape (m, K)
        Orthonormal basis of the second layer's transposed weight in the delta space.
    W : Tensor of shape (m, k)
        First layer's weights in the same coordinates as R.
    odd : bool
        Whether to go one order higher, for activations with E[s''] = 0.
    generator : torch.Generator
        Draws the fixed direction q of the odd features.

    Returns
    -------
    Tensor of shape (K, k, k)
        Symmetric slices up to a common scale. Entry (a, b) is estimated twice, from column a and
        from column b of R; the two are averaged by the inverse noise of their columns.
    """
    m, k = W.shape
    K = U.shape[1]
    sizes = R.norm(dim=0).clamp_min(1e-300)
    centred = W - W.mean(0)
    centred = centred / centred.std().clamp_min(1e-300)
    low = torch.ones(m, 1, dtype=W.dtype, device=W.device)
    high = centred
    if odd:
        q = torch.randn(k, generator=generator, dtype=torch.float64).to(W)
        along = centred @ (q / q.norm())
        low = torch.cat([low, centred], 1)
        high = along[:, None] * centred
    basis = torch.cat([low, high], 1)
    features = (U[:, :, None] * basis[:, None, :]).reshape(m, -1) * m**0.5
    fit = _ridge(features, R / sizes * m**0.5)
    fit = fit.reshape(K, basis.shape[1], k)[:, low.shape[1] :]
    slices = fit.transpose(1, 2) * sizes[:, None]  # entry (a, b) from column a
    trust = 1 / sizes**2
    both = slices * trust[:, None] + slices.transpose(1, 2) * trust
    return both / (trust[:, None] + trust)


def _ridge(A: Tensor, Y: Tensor, strength: float = 0.3) -> Tensor:
    """Ridge regression in whichever of its two forms has the smaller system."""
    m, n = A.shape
    if n <= m:
        eye = torch.eye(n, dtype=A.dtype, device=A.device)
        return torch.linalg.solve(A.T @ A + strength * m * eye, A.T @ Y)
    eye = torch.eye(m, dtype=A.dtype, device=A.device)
    return A.T @ torch.linalg.solve(A @ A.T + strength * m * eye, Y)


def second_order_vanishes(slope: Slope, z: Tensor) -> bool:
    """Whether E[s''] is negligible beside E[|s''|] at the given pre-activations.

    Parameters
    ----------
    slope : callable
        The activation's derivatives, possibly smoothed.
    z : Tensor
        Pre-activations, in any shape.

    Returns
    -------
    bool
        Whether the mean of s'' is below a tenth of the mean of its absolute value.
    """
    curvature = slope(z)[1]
    return float(curvature.mean().abs()) < 0.1 * float(curvature.abs().mean())
