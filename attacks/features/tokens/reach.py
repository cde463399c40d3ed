"""Whether a gradient tells all tokens of a batch apart, before they are searched for.

The tokens of one batch are nearly collinear: empty patches differ by their positions only, and at
the same position two images' by what attention made of the rest. The singular values of the
gradient fall by orders of magnitude therefore, and the last ones below its rounding. What is left
can be searched for minutes, but images come only of a batch whose tokens are all there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attacks.base import Problem
from attacks.features.reading import joined_gradient
from attacks.tensor.layers import LinearPair
from attacks.tensor.subspace import NOISE, numerical_rank

GAP = 3.0
"""Ratio of the last singular value that counts to the next one, below which none stands out."""


@dataclass(frozen=True)
class Reach:
    """The spectrum of a layer's gradient around its rank.

    Attributes
    ----------
    layer : str
        Its name.
    width : int
        Of the tokens.
    rank : int
        Number of singular values above the noise.
    weakest, noise : float
        The last of them and the next one, relative to the largest.
    """

    layer: str
    width: int
    rank: int
    weakest: float
    noise: float

    def hopeless(self, positions: int, images: int) -> bool:
        """Whether tokens are certain to be missing; never said of a gradient with added noise.

        Parameters
        ----------
        positions : int
            Tokens of one image.
        images : int
            Of the batch.

        Returns
        -------
        bool
        """
        if self.noise > NOISE:
            return False
        return self.rank <= (positions - 1) * images or self.weakest < GAP * self.noise

    def reason(self, positions: int, images: int, read: int | None) -> str:
        """Why there are no images, with the number of tokens that were read, if any were sought.

        Parameters
        ----------
        positions : int
            Tokens of one image.
        images : int
            Of the batch.
        read : int or None
            Number of tokens that were read; None if none was searched for.

        Returns
        -------
        str
        """
        wanted = positions * images
        apart = "all" if self.rank == wanted else f"{self.rank}"
        done = "so none was searched for" if read is None else f"{read} could be read"
        return (
            f"{images} images with {positions} tokens each make {wanted} vectors. The gradient of "
            f"{self.layer!r} (tokens of width {self.width}) tells {apart} of them apart: relative "
            f"to the largest, its singular value {self.rank} is {self.weakest:.1e} and the next, "
            f"taken for rounding, {self.noise:.1e}; {done}. Empty patches are nearly the same "
            "vector, and without all tokens the others' patches and positions cannot be solved "
            "for. Fewer images at once, or a gradient in float64, would do."
        )


def reach_of(problem: Problem, pair: LinearPair) -> Reach:
    """What the gradient of a pair's first layer tells apart.

    Parameters
    ----------
    problem : Problem
        Holds the gradient.
    pair : LinearPair
        That saw the tokens.

    Returns
    -------
    Reach
    """
    gradient, _ = joined_gradient(problem, pair.hidden)
    spectrum = torch.linalg.svdvals(gradient)
    rows, columns = (int(gradient.any(side).sum()) for side in (1, 0))
    alive = spectrum[: min(rows, columns)]
    dtypes = (
        problem.gradient[f"{pair.hidden}.weight"].dtype,
        next(problem.model.parameters()).dtype,
    )
    precision = max(torch.finfo(dtype).eps for dtype in dtypes) / 2
    rank = numerical_rank(alive, precision, max(rows, columns))
    largest = float(spectrum[0]) or 1.0
    weakest = float(spectrum[rank - 1]) / largest if rank else 0.0
    noise = float(alive[rank]) / largest if rank < len(alive) else precision
    return Reach(pair.hidden, pair.in_features, rank, weakest, noise)
