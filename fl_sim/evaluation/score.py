"""`score`: one attack's reconstruction against the true batch, as a row and as pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.base import Reconstruction
from fl_sim.data.images import ImageData
from fl_sim.evaluation.matching import match
from fl_sim.evaluation.metrics import psnr, relative_error, ssim
from fl_sim.records import EXACT, AttackRow, Gallery


def score(
    row: AttackRow,
    found: Reconstruction | None,
    inputs: Tensor,
    labels: Tensor,
    data: ImageData,
    *,
    standardize: bool,
    index: int,
) -> tuple[AttackRow, Gallery]:
    """Match a reconstruction with the truth and measure it.

    Distances between images are taken after both are brought to the data's [0, 1] range, to which
    reconstructions are clamped; the relative error is taken in the model's input space, unclamped.

    Parameters
    ----------
    row : AttackRow
        Says round, client, attack and status.
    found : Reconstruction, optional
        None where the attack returned nothing.
    inputs : Tensor of shape (B, C, H, W)
        True inputs, in the model's input space.
    labels : int Tensor of shape (B,)
        True labels.
    data : ImageData
        Knows the way from inputs back to [0, 1].
    standardize : bool
        Whether inputs are standardized.
    index : int
        Position the row will have in `Results.attacks`.

    Returns
    -------
    row : AttackRow
        With all measurements filled in.
    gallery : Gallery
        The batch's pictures.

    Raises
    ------
    ValueError
        If the reconstruction does not have the size of the true inputs.
    """
    truth = inputs.detach().double().cpu()
    rebuilt = _as_images(found, truth)
    pairs = match(truth.flatten(1), rebuilt.flatten(1))
    matched, partner = pairs >= 0, pairs[pairs >= 0]
    guess = _class_indices(found)
    certified = (
        found.certified.cpu().bool() if found is not None else torch.zeros(0, dtype=torch.bool)
    )
    error = relative_error(truth[matched], rebuilt[partner])
    exact = error <= EXACT

    unit_truth = data.to_unit(truth, standardize).clamp(0, 1)
    unit_rebuilt = data.to_unit(rebuilt, standardize).nan_to_num(0.0).clamp(0, 1)
    paired = unit_truth[matched], unit_rebuilt[partner]
    labels = labels.detach().cpu()
    accuracy = None
    if guess is not None and len(truth):
        accuracy = int((guess[partner] == labels[matched]).sum()) / len(truth)
    measured = replace(
        row,
        batch_size=len(truth),
        estimated_batch_size=found.batch_size if found is not None else None,
        recovered=int(exact.sum()),
        certified=int(certified.sum()),
        features_certified=_features_certified(found),
        false_certificates=int(certified.sum()) - int((certified[partner] & exact).sum()),
        label_accuracy=accuracy,
        psnr=_over_truth(matched, psnr(*paired)),
        ssim=_over_truth(matched, ssim(*paired) if len(partner) else None),
        relative_error=_over_truth(matched, error),
        seconds=found.seconds if found is not None else row.seconds,
    )
    return measured, _gallery(index, pairs, unit_truth, unit_rebuilt, labels, guess, certified)


def _features_certified(found: Reconstruction | None) -> int:
    """Certified features of samples whose own certificates were withheld."""
    if found is None or found.features_certified is None:
        return 0
    return int((found.features_certified & ~found.certified).sum())


def _gallery(
    index: int,
    pairs: Tensor,
    truth: Tensor,
    rebuilt: Tensor,
    labels: Tensor,
    guess: Tensor | None,
    certified: Tensor,
) -> Gallery:
    """Lay out the pictures (in [0, 1]) and labels of a matched batch."""
    matched, partner = pairs >= 0, pairs[pairs >= 0]
    if guess is None:
        guess = torch.full((len(rebuilt),), -1)
    extra = torch.ones(len(rebuilt), dtype=torch.bool)
    extra[partner] = False
    return Gallery(
        row=np.full(len(truth), index, np.int64),
        truth=_floats(truth),
        reconstruction=_scatter(matched, _floats(rebuilt[partner]), np.nan),
        truth_label=labels.numpy().astype(np.int64),
        label=_scatter(matched, guess[partner].numpy(), -1),
        certified=_scatter(matched, certified[partner].numpy(), False),
        extra=_floats(rebuilt[extra]),
        extra_row=np.full(int(extra.sum()), index, np.int64),
        extra_certified=certified[extra].numpy(),
    )


def _as_images(found: Reconstruction | None, truth: Tensor) -> Tensor:
    """Reconstructed inputs (n, ...) as float64 images (n, C, H, W) on the CPU."""
    if found is None or not len(found):
        return truth.new_zeros(0, *truth.shape[1:])
    flat = found.inputs.detach().double().cpu().flatten(1)
    if flat.shape[1] != truth[0].numel():
        raise ValueError(
            f"The attack returned inputs of shape {tuple(found.inputs.shape[1:])}; "
            f"the true ones have shape {tuple(truth.shape[1:])}."
        )
    return flat.reshape(-1, *truth.shape[1:])


def _class_indices(found: Reconstruction | None) -> Tensor | None:
    """Reconstructed labels as class indices (n,); -1 where one is not finite.

    Targets of a squared loss, one value per class, become the class of the largest.
    """
    if found is None or found.labels is None:
        return None
    labels = found.labels.detach().cpu()
    if not labels.is_floating_point():
        return labels.long()
    if labels.ndim == 1:
        labels = labels.unsqueeze(1)
    finite = torch.isfinite(labels).all(dim=1)
    best = labels.round().squeeze(1) if labels.shape[1] == 1 else labels.argmax(dim=1)
    return torch.where(finite, best, -1.0).long()


def _over_truth(matched: Tensor, values: Tensor | None) -> list[float | None]:
    """Spread the values of the pairs over all true samples, None elsewhere."""
    spread: list[float | None] = [None] * len(matched)
    if values is not None:
        for sample, value in zip(
            matched.nonzero().flatten().tolist(), values.tolist(), strict=True
        ):
            spread[sample] = value
    return spread


def _scatter(matched: Tensor, values: NDArray, default: float) -> NDArray:
    spread = np.full((len(matched), *values.shape[1:]), default, values.dtype)
    spread[matched.numpy()] = values
    return spread


def _floats(images: Tensor) -> NDArray[np.float32]:
    return images.float().numpy()
