"""Feature matching (arXiv 2402.09478): the tensor step helps an optimisation attack.

Deeper in a network, at its first Linear - activation - Linear, the tensor attack recovers what
enters the linear layer: each sample's features. Cosine matching then runs with a term that pulls
every candidate's features towards one recovered vector, and optionally with candidates rendered by
an untrained U-Net. As in `inverting_gradients`, the distance enters by its logarithm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attacks.base import NotApplicable
from attacks.matching.attack import MatchingAttack, Setting
from attacks.matching.core import Best, Match, Start, descend
from attacks.matching.features import RecoveredFeatures, recover_features
from attacks.matching.objective import cosine, logarithm
from attacks.matching.optimizers import Adam
from attacks.matching.priors import Features, ForwardPrior, total_variation
from attacks.matching.unet import untrained_unet
from attacks.settings import count, flag, positive, weight


class FeatureMatching(MatchingAttack):
    """Cosine matching with tensor-recovered features.

    Parameters
    ----------
    iterations : int, default 2000
        Steps per restart.
    restarts : int, default 1
        Descents from different starts; the best objective wins.
    features : float, default 1.0
        Weight of 1 - cos^2 between a candidate's features and the recovered ones.
    tv : float, default 0.5
        Weight of the total variation.
    logarithmic : bool, default True
        Whether the logarithm of the distance is minimised; the paper's objective, False, asks for a
        `tv` of about 0.02.
    lr : float, default 0.1
        Step size of signed Adam on pixels.
    image_prior : bool, default False
        Whether candidates are rendered by an untrained U-Net.
    prior_lr : float, default 0.003
        Step size of Adam on the U-Net's weights.
    local_steps, local_lr : int and float, default 1 and 0.1
        The clients' steps of SGD on one batch, simulated.

    Raises
    ------
    ValueError
        If a number makes no sense; the message names it.
    """

    def __init__(
        self,
        iterations: int = 2000,
        restarts: int = 1,
        features: float = 1.0,
        tv: float = 0.5,
        logarithmic: bool = True,
        lr: float = 0.1,
        image_prior: bool = False,
        prior_lr: float = 0.003,
        local_steps: int = 1,
        local_lr: float = 0.1,
    ) -> None:
        self.iterations = count("iterations", iterations)
        self.restarts = count("restarts", restarts)
        self.features = weight("features", features)
        self.tv = weight("tv", tv)
        self.logarithmic = flag("logarithmic", logarithmic)
        self.lr = positive("lr", lr)
        self.image_prior = flag("image_prior", image_prior)
        self.prior_lr = positive("prior_lr", prior_lr)
        self.local_steps = count("local_steps", local_steps)
        self.local_lr = positive("local_lr", local_lr)

    def search(self, setting: Setting, best: Best) -> dict[str, Any]:
        """Recover features, then descend `restarts` times; see `MatchingAttack.search`.

        Raises
        ------
        NotApplicable, Interrupted
            As `recover_features` and `matching_labels` raise them.
        ValueError
            If `image_prior` is set and the inputs are no images.
        """
        known = recover_features(setting.problem, setting.shape[1:])
        size = setting.shape[0]
        forward: list[tuple[float, ForwardPrior]] = []
        if len(known.features):
            features = known.features[:size].to(setting.target[0])
            forward = [(self.features, Features(setting.client.model, known.layer, features))]
        distance = cosine(setting.target)
        if self.logarithmic:
            distance = logarithm(distance)
        match = Match(setting.client, distance, [(self.tv, total_variation)], forward)
        labels = matching_labels(setting, known)
        lowest = []
        for _ in range(self.restarts):
            start = self._start(setting, labels)
            optimizer = Adam(self.prior_lr, False) if self.image_prior else Adam(self.lr, True)
            lowest.append(descend(match, start, optimizer, self.iterations, setting.bounds, best))
        return {"restarts": lowest, "features": len(known.features), "layer": known.layer}

    def _start(self, setting: Setting, labels: Tensor | None) -> Start:
        if self.image_prior:
            codes, render = untrained_unet(setting.shape, setting.randn)
        else:
            codes, render = [setting.clamp(setting.randn(*setting.shape))], None
        if labels is not None:
            return Start(codes, labels, render=render)
        logits = setting.randn(setting.shape[0], setting.outputs)
        return Start(codes, logits, free_labels=True, render=render)


def matching_labels(setting: Setting, known: RecoveredFeatures) -> Tensor | None:
    """Labels in the order of the recovered features; the rest as inferred or granted.

    Parameters
    ----------
    setting : Setting
        Of B samples.
    known : RecoveredFeatures
        May hold labels of its first samples.

    Returns
    -------
    Tensor of shape (B,), or None
        Targets under the squared loss, (B, outputs) or as granted. None if some were not read with
        the features and are neither granted nor inferred.

    Raises
    ------
    NotApplicable
        If, under the squared loss, targets are granted and only some were read with the features.
    """
    size = setting.shape[0]
    read = known.labels[:size]
    if len(read) == size:
        return read.to(setting.target[0]) if read.is_floating_point() else read
    if setting.labels is None:
        return None
    if setting.problem.loss != "cross_entropy":
        if len(read):
            raise NotApplicable(
                f"Features of {len(read)} of {size} samples were recovered; which targets the "
                "others have is unknown."
            )
        return setting.labels
    left = setting.labels.tolist()
    for label in read.tolist():
        if label in left:
            left.remove(label)
    rest = torch.tensor(left, dtype=torch.int64, device=read.device)
    return torch.cat([read, rest])[:size]
