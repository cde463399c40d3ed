"""breaching 0.1.2 on our gradients: its own attack and defaults, the same number of iterations.

The peer is handed what our attacks are handed: model, gradient, batch size and range of the data
(it calls them metadata). Labels are left to it, as they are to ours.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

NAMES = {
    "inverting_gradients": "invertinggradients",
    "deep_leakage": "deepleakage",
    "analytic": "analytic",
    "see_through": "seethroughgradients",
}
"""Which of our attacks breaching has too, and what it calls them."""


@dataclass(frozen=True)
class PeerResult:
    """What a peer returned.

    Attributes
    ----------
    inputs : Tensor of shape (n, C, H, W)
    labels : Tensor of shape (n,)
    seconds : float
        CPU time of the reconstruction.
    """

    inputs: Tensor
    labels: Tensor
    seconds: float


def run_breaching(
    attack: str,
    model: nn.Module,
    gradient: dict[str, Tensor],
    batch_size: int,
    image_shape: tuple[int, ...],
    statistics: tuple[Tensor, Tensor],
    iterations: int | None,
) -> PeerResult:
    """Run breaching's version of an attack.

    Parameters
    ----------
    attack : str
        A key of `NAMES`.
    model : nn.Module
        In evaluation mode.
    gradient : dict from parameter name to Tensor
    batch_size : int
    image_shape : tuple of int
        (C, H, W).
    statistics : (mean, std) of the images' channels
    iterations : int, optional
        Of its optimiser; by default its own number.
    """
    # its models fetch pretrained weights unless told not to look
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import breaching

    overrides = (
        [] if iterations is None or attack == "analytic" else [f"optim.max_iterations={iterations}"]
    )
    config = breaching.get_attack_config(NAMES[attack], overrides=overrides)
    setup = {"device": torch.device("cpu"), "dtype": torch.float32}
    loss = torch.jit.script(nn.CrossEntropyLoss())
    attacker = breaching.attacks.prepare_attack(model, loss, config, setup)
    mean, std = (s.flatten().tolist() for s in statistics)
    classes = next(reversed(gradient.values())).shape[0]
    metadata = _Metadata(
        shape=image_shape,
        classes=classes,
        modality="vision",
        mean=mean,
        std=std,
        task="classification",
    )
    payload = {
        "parameters": [p.detach() for p in model.parameters()],
        "buffers": list(model.buffers()),
        "metadata": metadata,
    }
    shared = {
        "gradients": [g.clone() for g in gradient.values()],
        "buffers": None,
        "metadata": {
            "num_data_points": batch_size,
            "labels": None,
            "num_users": 1,
            "local_hyperparams": None,
            "data_key": "inputs",
        },
    }
    start = time.process_time()
    found, _ = attacker.reconstruct([payload], [shared], {}, dryrun=False)
    seconds = time.process_time() - start
    labels = found["labels"]
    if labels.is_floating_point():
        labels = labels.argmax(1)
    return PeerResult(found["data"].detach(), labels, seconds)


class _Metadata(SimpleNamespace):
    """What breaching reads from its data configuration."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)
