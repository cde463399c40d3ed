"""What splits and draws of a labelled set have in common: the images of each class, and skews."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Skew:
    """How unevenly classes are spread over the clients.

    Attributes
    ----------
    alpha : float
        Concentration of the Dirichlet distribution, positive; smaller is more skewed.
    classes_per_client : int
        Classes (pathological) or shards (shard) of a client, at least 1.

    Raises
    ------
    ValueError
        If a value is not positive.
    """

    alpha: float
    classes_per_client: int

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"data.alpha={self.alpha} is not positive.")
        if self.classes_per_client < 1:
            raise ValueError(f"data.classes_per_client={self.classes_per_client} is not positive.")


@dataclass(frozen=True, eq=False)
class Pools:
    """The images of each class that occurs, in ascending order."""

    classes: tuple[Indices, ...]

    @classmethod
    def of(cls, labels: NDArray[np.int64]) -> Self:
        """Sort the images by their label."""
        order = np.argsort(labels, kind="stable")
        borders = np.flatnonzero(np.diff(labels[order])) + 1
        return cls(tuple(np.split(order, borders)))

    @property
    def sizes(self) -> Indices:
        """Number of images of each class."""
        return np.array([len(pool) for pool in self.classes])

    def shuffled(self, rng: np.random.Generator) -> list[Indices]:
        """The images of each class in random order."""
        return [rng.permutation(pool) for pool in self.classes]

    def choose(self, counts: Sequence[int] | Indices, rng: np.random.Generator) -> Indices:
        """Choose images at random, without replacement.

        Parameters
        ----------
        counts : sequence of int
            How many of each class, at most as many as there are.
        rng : numpy.random.Generator

        Returns
        -------
        int array of shape (sum of the counts,)
            Class by class.
        """
        chosen = [
            rng.choice(pool, int(count), replace=False)
            for pool, count in zip(self.classes, counts, strict=True)
        ]
        return np.concatenate(chosen)

    def check_classes(self, wanted: int) -> None:
        """Refuse more classes per client than there are.

        Raises
        ------
        ValueError
            Naming both numbers.
        """
        if wanted > len(self.classes):
            raise ValueError(
                f"data.classes_per_client={wanted} is more than the {len(self.classes)} classes "
                f"of the training images."
            )


def dirichlet_counts(size: int, stock: Indices, alpha: float, rng: np.random.Generator) -> Indices:
    """Number of images of each class for a client whose class mixture is Dirichlet(alpha).

    The mixture q ~ Dir(alpha, ..., alpha) and the counts ~ Multinomial(size, q), as in Hsu, Qi and
    Brown (2019, arXiv 1909.06335), section 3; where a class runs out, the rest of the client's
    images follow q over the classes that are left.

    Parameters
    ----------
    size : int
        Images of this client, at most ``stock.sum()``.
    stock : int array of shape (K,)
        Images of each class that can be had.
    alpha : float
        Concentration.

    Returns
    -------
    int array of shape (K,), summing to `size` and at most `stock`
    """
    mixture = rng.dirichlet(np.full(len(stock), alpha))
    counts = np.zeros_like(stock)
    while missing := size - int(counts.sum()):
        left = stock - counts
        weights = np.where(left > 0, mixture, 0.0)
        if weights.sum() <= 0:  # all classes of the mixture have run out
            weights = left.astype(float)
        drawn = rng.multinomial(missing, weights / weights.sum())
        counts += np.minimum(drawn, left)
    return counts


def even_counts(size: int, stock: Indices) -> Indices:
    """Share a number of images out over classes as evenly as their stocks allow.

    Parameters
    ----------
    size : int
        How many in all.
    stock : int array of shape (K,)
        Images of each class that can be had.

    Returns
    -------
    int array of shape (K,), at most `stock`
        Sums to `size` if the stocks suffice.
    """
    counts = np.zeros_like(stock)
    for position, k in enumerate(np.argsort(stock, kind="stable")):
        rest = len(stock) - position
        counts[k] = min(int(stock[k]), (size - int(counts.sum())) // rest)
    return counts
