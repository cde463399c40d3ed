"""What becomes of the images that were found: judged, gathered, and explained.

An image is certified if its own equations hold to the gradient's rounding and determine its pixels;
what is not certified is returned as well, with one sentence on what stood in the way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attacks.base import Problem, Reconstruction
from attacks.features.images import Images
from attacks.features.newton import Solved, Span, proved, repeated
from attacks.features.objective import FeatureMatch
from attacks.features.reading import Features


@dataclass(frozen=True)
class Judged:
    """Images, their residuals, and which of them are proved.

    Attributes
    ----------
    x : Tensor of shape (N, n)
        Float64.
    residual : Tensor of shape (N,)
        Float64; infinite where nothing was tried.
    certified : bool Tensor of shape (N,)
    """

    x: Tensor
    residual: Tensor
    certified: Tensor


def judge(rows: Span, match: FeatureMatch, images: Images, solved: list[Solved]) -> Judged:
    """Certified: the equations hold up to the gradient's rounding and determine the pixels.

    Parameters
    ----------
    rows : Span
        Row space of the layer's gradient.
    match : FeatureMatch
        Of all images.
    images : Images
        As the descents left them.
    solved : list of Solved
        Of the first images, where their equations were solved as well; no other is certified.

    Returns
    -------
    Judged
        Of all images, in the same order.
    """
    x, residual = images.x.double(), images.residual.double()
    certified = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    exact = match.front.to(torch.float64)
    for i, end in enumerate(solved):
        x[i], residual[i] = end.x, end.residual
        with torch.no_grad():
            seen = exact(end.x.reshape(1, *match.shape)).flatten()
        certified[i] = proved(end, rows, seen)
    return Judged(x, residual, certified)


def assemble(
    problem: Problem,
    shape: tuple[int, ...],
    features: Features,
    rows: Span,
    match: FeatureMatch,
    images: Images,
    solved: list[Solved],
    info: dict[str, Any],
) -> Reconstruction:
    """The attack's result.

    Parameters
    ----------
    problem : Problem
        Holds the gradient.
    shape : tuple of int
        Of one image.
    features : Features
        As they were read.
    rows : Span
        What they span.
    match : FeatureMatch
        Of all images.
    images : Images
        As the descents left them.
    solved : list of Solved
        Of the first images, where their equations were solved as well.
    info : dict
        Diagnostics so far; completed, with the reason why not more was found.

    Returns
    -------
    Reconstruction
        Of the images that were tried, less repetitions of certified ones.
    """
    judged = judge(rows, match, images, solved)
    # features that were mixed may have led to the same image twice
    tried = torch.isfinite(images.residual) & ~repeated(judged.x, judged.certified)
    dtype = problem.gradient[next(iter(problem.gradient))].dtype
    if solved:
        info |= {
            "spare_equations": solved[0].spare,
            "weakest_singular_value": min(end.weakest for end in solved),
            "image_error": max(end.error for end in solved),
        }
    values = features.values.clone()
    with torch.no_grad():
        better = match.front.to(torch.float64)(judged.x.reshape(-1, *shape)).flatten(1)
    values[judged.certified] = better[judged.certified]
    if reason := _reason(judged.certified[tried], solved, info):
        info["reason"] = reason
    return Reconstruction(
        inputs=judged.x[tried].reshape(-1, *shape).to(dtype),
        labels=None if features.labels is None else features.labels[tried],
        certified=judged.certified[tried],
        residual=judged.residual[tried].to(dtype),
        batch_size=features.batch_size,
        info=info,
        features=values[tried].to(dtype),
        features_certified=(features.certified | judged.certified)[tried],
    )


def as_the_layer_saw(found: Reconstruction, layer: str, reason: str) -> Reconstruction:
    """A reconstruction whose images are estimates, since a layer need not have seen the images.

    Parameters
    ----------
    found : Reconstruction
        As if the front were a function of one image.
    layer : str
        The layer whose input was read.
    reason : str
        Why the front is none.

    Returns
    -------
    Reconstruction
        The same images without their certificates; the features keep theirs, but for those that
        rest on an image's.
    """
    told = (
        f"Exact is what {layer!r} saw, not the image: {reason}. The images are estimates, made as "
        "if the model ran in evaluation mode."
    )
    if found.info.get("interrupted"):
        told += f" {found.info['reason']}"
    return replace(
        found,
        certified=torch.zeros_like(found.certified),
        info=found.info | {"reason": told},
    )


def _reason(certified: Tensor, solved: list[Solved], info: dict[str, Any]) -> str | None:
    """Why not every image is proved, in one sentence, or None."""
    found, rank = info["features_found"], info["rank"]
    if info["interrupted"]:
        return "The attack was stopped before it had inverted all features."
    if not solved:
        lost = "gradient rows did not decide"
        if info["kinks"]:
            lost = "kinks hide where the rest went"
        elif found < rank:
            lost = f"the front's gradient would, but only with the features of all {rank}"
        return (
            f"The features of {found} samples were read, but {info['features']} features do not "
            f"determine {info['pixels']} pixels: {lost}, so the images are guesses."
        )
    if not certified.all():
        bad = int((~certified).sum())
        flat = sum(end.weakest == 0.0 for end in solved)
        silent = f" The units that speak do not determine the pixels of {flat}." if flat else ""
        return (
            f"{bad} of {len(certified)} images were not inverted to the precision of their "
            "features: the search ended in a local minimum or the pixels are poorly determined."
            + silent
        )
    if found < rank:
        return f"The features of {found} of {rank} samples could be read."
    return None
