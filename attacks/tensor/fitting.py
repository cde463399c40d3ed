"""One gradient's batch by maximum likelihood: first in its row space, then in the full input space.

White noise says how large the misfit of the right batch is; where it stays larger, labels, number
or starting points of the samples are wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from attacks.base import Problem
from attacks.tensor.layers import LinearPair
from attacks.tensor.likelihood import Likelihood, Tail, ascend
from attacks.tensor.pruned import Gaps, Noise
from attacks.tensor.subspace import GradientSpace, LayerGradient


def noise_of(layer: LayerGradient, space: GradientSpace) -> Noise:
    """Read the noise off what the rank leaves over.

    Parameters
    ----------
    layer, space : LayerGradient, GradientSpace
        Of the gradient.

    Returns
    -------
    Noise
        Per entry, as if it were white.
    """
    m, k = layer.gradient.shape
    left = layer.gradient.square().sum() - space.S.square().sum()
    first = float(left.clamp_min(0) / max((m - space.rank) * (k - space.rank), 1)) ** 0.5
    return Noise(first, first / float(layer.gradient.square().mean()) ** 0.5)


@dataclass(frozen=True)
class Batch:
    """A fitted batch.

    Attributes
    ----------
    inputs : Tensor of shape (n, d + 1) or (n, d)
        With the bias' one, if there is one.
    labels : Tensor of shape (n,)
        Classes.
    misfit : float
        Whitened misfit in the row space per degree of freedom; about one for the right batch.
    """

    inputs: Tensor
    labels: Tensor
    misfit: float


class Refinement:
    """Everything the fits of one gradient have in common.

    Parameters
    ----------
    problem, pair, layer, space
        As for the exact attack.
    tail : Tail
        The model behind its first layer.
    gaps : Gaps, optional
        What was left out of a pruned gradient.

    Attributes
    ----------
    scale : float
        What clipping has multiplied the gradient by.
    """

    def __init__(
        self,
        problem: Problem,
        pair: LinearPair,
        layer: LayerGradient,
        space: GradientSpace,
        tail: Tail,
        gaps: Gaps | None = None,
    ) -> None:
        self.layer, self.space, self.tail, self.gaps = layer, space, tail, gaps
        self.pair = pair
        own = (f"{pair.hidden}.weight", f"{pair.hidden}.bias")
        self.others = {k: v.double() for k, v in problem.gradient.items() if k not in own}
        self.noise = gaps.noise if gaps else noise_of(layer, space)
        self.scale = 1.0

    def likelihood(self, labels: Tensor, reduced: bool) -> Likelihood:
        """Of inputs with these labels, in the row space's coordinates or in full ones.

        Parameters
        ----------
        labels : int Tensor of shape (n,)
            Classes.
        reduced : bool
            Whether the inputs come in the coordinates of the row space.

        Returns
        -------
        Likelihood
            Of n inputs, which share `scale` equally. Of a pruned first layer it sees
            the completion's well-determined rows if reduced, the known entries otherwise.
        """
        n, V = len(labels), self.space.V
        whole = self.gaps.whole if self.gaps else self.layer
        origin = whole.weight.new_zeros(1, len(whole.weight))
        classes = self.tail.output(origin, self.tail.parameters()).shape[1]
        precision = V.new_tensor(1 / self.noise.first)
        others = self.noise.precisions(self.others)
        observed = whole.gradient
        if self.gaps:
            counted = self.gaps.rows[:, None] if reduced else self.gaps.known
            precision = precision * counted
            observed = self.gaps.filled if reduced else observed
            others = {k: p * (self.others[k] != 0) for k, p in others.items()}
        last = None
        if whole.biased:
            last = V[-1] if reduced else torch.eye(len(V)).to(V)[-1]
        return Likelihood(
            tail=self.tail,
            weight=whole.weight @ V if reduced else whole.weight,
            first=observed @ V if reduced else observed,
            first_precision=precision,
            others=self.others,
            other_precisions=others,
            targets=nn.functional.one_hot(labels, classes).to(V),
            shares=V.new_full((n,), self.scale / n),
            last=last,
        )

    def fit(self, inputs: Tensor, labels: Tensor) -> Batch:
        """Fit in the row space.

        Parameters
        ----------
        inputs : Tensor of shape (n, d + 1) or (n, d)
            Where to begin, with the bias' one if there is one; projected to the row space.
        labels : int Tensor of shape (n,)
            Their classes.

        Returns
        -------
        Batch
            Its inputs lie in the row space.
        """
        likelihood = self.likelihood(labels, reduced=True)
        V = self.space.V
        entries = likelihood.first.numel()
        end = ascend(likelihood, inputs @ V, steps=20, inner=30, enough=3e-3)
        misfit = float(likelihood.misfit(end.inputs)[0].square().sum()) / entries
        return Batch(end.inputs @ V.T, labels, misfit)

    def widen(self, batch: Batch) -> Batch:
        """Fit in the full input space."""
        likelihood = self.likelihood(batch.labels, reduced=False)
        if self.gaps:  # known entries are exact: to the end
            goal = float((likelihood.first * likelihood.first_precision).square().sum()) * 1e-13
            end = ascend(likelihood, batch.inputs, steps=25, inner=40, enough=1e-2, goal=goal)
        else:
            end = ascend(likelihood, batch.inputs, steps=5, inner=12, enough=3e-4)
        return replace(batch, inputs=end.inputs)
