"""From features to images by descent: plainly where the front is smooth, by a homotopy elsewhere.

Descent on |front(x) - phi|^2 of a network with ReLU or max-pooling ends in local minima. It does
not if the kinks are smoothed widely first and ever less then, each stage starting where the last
one ended, with a little total variation to choose among the many images that a smoothed network
maps to nearly the same features. Which of several starts to keep is decided by the residual; what
none of them solved is put together from all of them (`patchwork`) and descends again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from attacks.features.descent import descend
from attacks.features.objective import FeatureMatch
from attacks.features.patchwork import energy, patchwork
from attacks.features.smoothing import Smoothed

SOLVED = 1e-3
"""Relative feature residual below which an image needs no further start."""
LATE = 0.25
"""Widest smoothing, in standard deviations of the features, that leaves a patchwork what it is."""
WORTH = 0.9
"""A round of patchworks that lowers no residual to this share of itself is the last."""


@dataclass(frozen=True)
class Descents:
    """How to descend.

    Attributes
    ----------
    iterations : int
        Evaluations of a descent on the true network.
    stage : int
        Evaluations of each stage of the homotopy.
    widths : sequence of float
        Of the smoothing, stage by stage, in standard deviations of the features.
    levels : sequence of float
        Grey levels of the constant images to start from, in the model's input space.
    tv : float
        Weight of the total variation while there is smoothing.
    last_tv : float
        Its weight on the true network, where the features alone do not determine the image.
    rounds : int
        Most rounds of patchworks after all levels were tried.
    """

    iterations: int = 250
    stage: int = 100
    widths: Sequence[float] = (1.0, 0.5, 0.25, 0.12, 0.06, 0.03, 0.015, 0.007)
    levels: Sequence[float] = (0.3, -0.5, 0.0, 1.0)
    tv: float = 1e-4
    last_tv: float = 0.0
    rounds: int = 3


@dataclass
class Images:
    """Best images so far; filled in place so that an interruption loses nothing.

    Attributes
    ----------
    x : Tensor of shape (N, n)
    residual : Tensor of shape (N,)
        Relative distance of their features, infinite where nothing was tried yet.
    starts : list of str
        What was tried, for the diagnostics.
    ends : list of (Tensor, Tensor)
        Where each homotopy ended, (N, n), and the energies there; images that were solved before
        have none.
    """

    x: Tensor
    residual: Tensor
    starts: list[str] = field(default_factory=list)
    ends: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def keep(self, index: Tensor, x: Tensor, residual: Tensor) -> None:
        """Take over what has a lower residual.

        Parameters
        ----------
        index : int Tensor of shape (k,)
            Which images were tried, each once.
        x : Tensor of shape (k, n)
            What was found.
        residual : Tensor of shape (k,)
            Relative distances of its features.
        """
        better = residual < self.residual[index]
        self.x[index[better]] = x[better]
        self.residual[index[better]] = residual[better]

    @property
    def open(self) -> Tensor:
        """Indices of the images that are not solved."""
        return (~(self.residual < SOLVED)).nonzero().flatten()


def count_kinks(match: FeatureMatch) -> int:
    """How many functions with kinks, max-pooling included, the front calls."""
    first = match.features.new_zeros(1, *match.shape)
    with torch.no_grad(), Smoothed(0.0) as context:
        match.front(first)
    return context.kinks


def search(match: FeatureMatch, settings: Descents, kinked: bool, images: Images) -> None:
    """Find images with the given features.

    Parameters
    ----------
    match : FeatureMatch
        Of all images.
    settings : Descents
        How to descend.
    kinked : bool
        Whether the front has kinks.
    images : Images
        Filled.
    """
    determined = match.features.shape[1] > images.x.shape[1]
    if determined or not kinked:  # otherwise a descent without smoothing is of no use
        _attempt(match, images, "descent", settings.levels[0], _plain(settings))
    if not kinked:
        return
    whole, late = _homotopy(settings, math.inf), _homotopy(settings, LATE)
    for level in settings.levels if determined else settings.levels[:1]:
        _attempt(match, images, "homotopy", level, whole)
        if len(images.ends) > 1:
            _attempt(match, images, "late homotopy", None, late)
    for _ in range(settings.rounds if determined else 0):
        index, before = images.open, images.residual.clone()
        _attempt(match, images, "homotopy", None, whole)
        _attempt(match, images, "late homotopy", None, late)
        if not (images.residual[index] < WORTH * before[index]).any():
            break


@dataclass(frozen=True)
class Way:
    """From a start to an image.

    Attributes
    ----------
    descend : callable (match, x) -> x
    width : float
        Of the smoothing, in standard deviations of the features, to judge the ends by; zero if
        they are not to be part of patchworks.
    """

    descend: Callable[[FeatureMatch, Tensor], Tensor]
    width: float = 0.0


def _attempt(match: FeatureMatch, images: Images, name: str, level: float | None, way: Way) -> None:
    """One more start for the images that are still open: a grey level, or a patchwork."""
    index = images.open
    if not len(index):
        return
    part = match.rows(index)
    if level is None:
        ends = [(x[index], energies[index]) for x, energies in images.ends]
        start = patchwork(*zip(*ends, strict=True))
    else:
        start = torch.full_like(images.x[index], level)
    images.starts.append(f"{name} from {'patchwork' if level is None else level}: {len(index)}")
    x = way.descend(part, start)
    images.keep(index, x, part.residual(x))
    if way.width:
        whole, energies = torch.zeros_like(images.x), torch.zeros_like(images.x)
        whole[index], energies[index] = x, energy(part, x, way.width * float(match.features.std()))
        images.ends.append((whole, energies))


def _plain(settings: Descents) -> Way:
    def down(match: FeatureMatch, x: Tensor) -> Tensor:
        return descend(lambda v: match.evaluate(v, 0.0, settings.last_tv), x, settings.iterations)

    return Way(down)


def _homotopy(settings: Descents, widest: float) -> Way:
    """The stages that smooth no wider, then the true network."""

    def down(match: FeatureMatch, x: Tensor) -> Tensor:
        unit = float(match.features.std())
        for width in (w for w in settings.widths if w <= widest):
            x = descend(
                partial(match.evaluate, width=width * unit, tv=settings.tv), x, settings.stage
            )
        free = replace(match, bounds=None)
        last = partial(free.evaluate, width=0.0, tv=settings.last_tv)
        return descend(last, x, settings.iterations)

    return Way(down, LATE)
