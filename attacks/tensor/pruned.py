"""Reading a pruned gradient: which entries are known, what fills the gaps, what is certain then."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.tensor.certificate import WORST_ERROR, clean
from attacks.tensor.completion import complete, known_entries
from attacks.tensor.subspace import GradientSpace, LayerGradient, gradient_space

REPLAYED = 1e-5
"""Relative misfit of the known entries that a certificate forgives."""


@dataclass(frozen=True)
class Noise:
    """Standard deviation of the noise per entry.

    Attributes
    ----------
    first : float
        Of the first layer's gradient.
    level : float
        The same relative to that gradient's root mean square.
    """

    first: float
    level: float

    def precisions(self, others: dict[str, Tensor]) -> dict[str, Tensor]:
        """One over the other tensors' noise, if it is as large relative to each."""
        return {
            name: 1 / (self.level * value.square().mean().sqrt()).clamp_min(1e-300)
            for name, value in others.items()
        }


@dataclass(frozen=True)
class Gaps:
    """A pruned layer gradient and its completion.

    Attributes
    ----------
    layer : LayerGradient
        Well-determined hidden units only, their gradients completed.
    whole : LayerGradient
        As it was observed.
    known : bool Tensor of shape (m, k)
        Which entries were.
    filled : Tensor of shape (m, k)
        The completion.
    rows, columns : bool Tensor of shape (m,) and (k,)
        Which of its rows and columns are well determined.
    rank : int
        Of the completion.
    error : float
        Its relative error at entries held out.
    """

    layer: LayerGradient
    whole: LayerGradient
    known: Tensor
    filled: Tensor
    rows: Tensor
    columns: Tensor
    rank: int
    error: float

    @property
    def noise(self) -> Noise:
        """What the completion may be wrong by, per entry."""
        level = max(self.error, 1e-3)
        return Noise(level * float(self.filled.square().mean()) ** 0.5, level)

    def opened(self, size: int) -> GradientSpace:
        """The completed gradient's space without ill-determined columns: their inputs are open.

        The column space does not need them, and what they leave out of the sample equation is a
        few more unknowns per sample.
        """
        columns = self.columns
        part = replace(
            self.layer,
            weight=self.layer.weight[:, columns],
            gradient=self.layer.gradient[:, columns],
        )
        space = gradient_space(part, size)
        count = int((~columns).sum())
        V = space.V.new_zeros(len(columns), space.rank + count)
        V[columns, : space.rank] = space.V
        V[~columns, space.rank :] = torch.eye(count).to(V)
        last = V[-1] if self.layer.biased else None
        return replace(space, V=V, last=last, open=count)

    def blurred(self, space: GradientSpace) -> GradientSpace:
        """The completed gradient's space, its noise raised where some inputs are hardly known.

        Inputs behind ill-determined columns are off, so all pre-activations are, a little.
        """
        share = float((~self.columns).sum() / len(self.columns)) ** 0.5
        noise = max(space.noise, 0.1 * share * float(space.S.log().mean().exp()))
        return replace(space, noise=noise)

    def certain(self, D: Tensor, X: Tensor, residual: float) -> Tensor:
        """Which samples of a fitted batch the known entries prove.

        They all have to be met, there have to be twice as many of them as unknowns, and in every
        column a those known have to pin the inputs down: their error is bounded by three times
        residual noise through (D_a' D_a)^-1, D_a the columns' known rows.

        Parameters
        ----------
        D : Tensor of shape (n, m)
            The samples' columns.
        X : Tensor of shape (n, k)
            The inputs, with the bias' one.
        residual : float
            Relative misfit of the known entries.

        Returns
        -------
        bool Tensor of shape (n,)
        """
        enough = int(self.known.sum()) >= 2 * X.numel() and residual <= REPLAYED
        if not enough:
            return torch.zeros(len(X), dtype=torch.bool, device=X.device)
        pairs = (D[:, None] * D[None]).reshape(len(X) ** 2, -1)
        grams = (pairs @ self.known.to(D)).T.reshape(-1, len(X), len(X))
        spread, failed = torch.linalg.inv_ex(grams)
        variance = spread.diagonal(dim1=1, dim2=2).sum(0).abs()  # (n,)
        variance = torch.where(failed.any(), torch.inf, variance)
        known = self.whole.gradient[self.known]
        inputs = X[:, :-1] if self.whole.biased else X
        bound = 3 * residual * float(known.square().mean()) ** 0.5 * variance.sqrt()
        return torch.nan_to_num(bound, nan=torch.inf) <= WORST_ERROR * inputs.norm(dim=1)


def lost(layer: LayerGradient, space: GradientSpace) -> bool:
    """Whether so much of a gradient was left out that nothing else can be read from it.

    Parameters
    ----------
    layer, space : LayerGradient, GradientSpace
        Of the gradient as observed.

    Returns
    -------
    bool
        False if the gradient is `clean`, whatever its zeros.
    """
    known = known_entries(layer.gradient)
    if known is None or clean(space, layer.precision):
        return False
    rows, columns = (int(known.any(side).sum()) for side in (1, 0))
    return int(known.sum()) < 0.7 * rows * columns


def fill(layer: LayerGradient, generator: torch.Generator, size: int | None = None) -> Gaps | None:
    """Complete a layer's gradient if entries are missing.

    None if nothing seems to be left out, if the gradient is exact with its zeros, or if no
    completion is to be believed.

    Parameters
    ----------
    layer : LayerGradient
        As observed.
    generator : torch.Generator
        Chooses the entries that test the completion.
    size : int, optional
        Number of samples, if it is known.

    Returns
    -------
    Gaps or None
    """
    known = known_entries(layer.gradient)
    if known is None:
        return None
    space = gradient_space(layer)
    alive = min(int(known.any(side).sum()) for side in (0, 1))
    exact = clean(space, layer.precision)
    if exact and space.rank <= alive // 3:
        return None
    done = complete(layer.gradient, known, generator, size)
    if done is None or (exact and done.rank >= space.rank):
        return None
    rows = done.rows
    kept = replace(
        layer,
        weight=layer.weight[rows],
        gradient=done.matrix[rows],
        outgoing=layer.outgoing[:, rows],
        outgoing_gradient=layer.outgoing_gradient[:, rows],
        pruned=True,
    )
    return Gaps(kept, layer, known, done.matrix, rows, done.columns, done.rank, done.error)
