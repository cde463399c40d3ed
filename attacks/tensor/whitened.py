"""The sample equation in units of its own noise.

Noise of standard deviation sigma leaves a combination G~v of the gradient's columns uncertain by
sigma |v|. A true column D = G~v, v = S^-1 Q'D in the row space's coordinates, therefore leaves the
noisy column space by about sigma |v| sqrt(m), and the likelihood of one sample with all others free
is a matter of

    |(I - QQ') D| / (sigma |S^-1 Q'D|)

rather than of phi, which divides by |D| and so prefers wrong columns made of strong directions to
true ones that need the weak. Its minimum is found in the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.tensor.equation import SampleEquation, State, Trust
from attacks.tensor.linear_algebra import generalised_eigh, gram


class WhitenedEquation(SampleEquation):
    """`SampleEquation` whose phi is measured in units of what noise explains.

    Parameters
    ----------
    Q, U, W, last, dtype
        As for `SampleEquation`.
    blur : Tensor of shape (B,)
        Noise over singular value of each column of Q.
    """

    def __init__(
        self,
        Q: Tensor,
        U: Tensor,
        W: Tensor,
        last: Tensor | None,
        blur: Tensor,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__(Q, U, W, last, dtype)
        self.blur = blur.to(dtype)

    def fit(self, first: Tensor, second: Tensor, trust: Trust | None = None) -> State:
        """Eliminate delta; columns come with |blur Q'column| = 1.

        Parameters
        ----------
        first, second : Tensor of shape (N, m)
            s' and s'' at the pre-activations of N candidates.
        trust : Trust, optional
            None; there for `SampleEquation`'s sake.

        Returns
        -------
        State
            Of the N candidates.

        Raises
        ------
        ValueError
            If a `trust` is given.
        """
        if trust is not None:
            raise ValueError("The whitened equation counts all rows.")
        features = first[:, None, :] * self.Ut  # (N, K, m)
        inside = features @ self.Q
        off = features - inside @ self.Q.T
        moved = inside * self.blur
        values, vectors = generalised_eigh(gram(off), gram(moved))
        vectors = vectors.to(self.dtype)
        delta = vectors[:, :, 0]
        size = torch.einsum("nk,nkb->nb", delta, moved).norm(dim=1)
        delta = delta / size.clamp_min(torch.finfo(self.dtype).tiny)[:, None]
        column = torch.einsum("nk,nkm->nm", delta, features)
        residual = torch.einsum("nk,nkm->nm", delta, off)
        others = values[:, 1:].sqrt().to(self.dtype)
        freedom = vectors[:, :, 1:].transpose(1, 2) @ off / others.clamp_min(1e-6)[:, :, None]
        runner_up = others[:, 0] if others.shape[1] else torch.ones_like(others.sum(1))
        phi = torch.nan_to_num(residual.norm(dim=1), nan=1e6)
        tangent = second * (delta @ self.Ut)
        # the normalisation |blur Q'D| changes along its own gradient
        counted = (column @ self.Q * self.blur.square()) @ self.Q.T
        rival = torch.zeros_like(column)
        return State(phi, delta, column, counted, residual, tangent, freedom, runner_up, rival)
