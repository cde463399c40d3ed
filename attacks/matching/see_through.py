"""GradInversion (Yin et al. 2021, "See through Gradients", arXiv 2104.07586).

Squared distance of gradients, an image prior (total variation, small values), the statistics at
every BatchNorm layer, and several seeds that are drawn towards their mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attacks.matching.attack import MatchingAttack, Setting
from attacks.matching.core import Best, Match, Start, descend
from attacks.matching.objective import squared
from attacks.matching.optimizers import Adam
from attacks.matching.priors import (
    BatchStatistics,
    ForwardPrior,
    anchored,
    mean_square,
    total_variation,
)
from attacks.settings import count, positive, weight

Statistics = Mapping[str, tuple[Tensor, Tensor]]


class SeeThroughGradients(MatchingAttack):
    """GradInversion: BatchNorm statistics and group consistency.

    The statistics are the batch's own where the threat model grants `batchnorm_statistics`;
    otherwise the running ones the server's model carries, if it was ever trained; otherwise none.

    Parameters
    ----------
    iterations : int, default 2000
        Steps per seed.
    seeds : int, default 2
        Descents that are drawn together; 1 for no group.
    stages : int, default 4
        Into how many parts the steps are divided; before each but the first, the mean of the
        seeds' candidates is taken anew.
    tv, small, statistics, group : float
        Weights of total variation, mean square, BatchNorm statistics and distance to the mean.
    lr : float, default 0.1
        Step size of Adam, in the model's input space.
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
        seeds: int = 2,
        stages: int = 4,
        tv: float = 0.1,
        small: float = 1e-4,
        statistics: float = 0.01,
        group: float = 0.01,
        lr: float = 0.1,
        local_steps: int = 1,
        local_lr: float = 0.1,
    ) -> None:
        self.iterations = count("iterations", iterations)
        self.seeds = count("seeds", seeds)
        self.stages = count("stages", stages)
        self.tv = weight("tv", tv)
        self.small = weight("small", small)
        self.statistics = weight("statistics", statistics)
        self.group = weight("group", group)
        self.lr = positive("lr", lr)
        self.local_steps = count("local_steps", local_steps)
        self.local_lr = positive("local_lr", local_lr)

    def search(self, setting: Setting, best: Best) -> dict[str, Any]:
        """Descend with all seeds, stage by stage; see `MatchingAttack.search`."""
        known = known_statistics(setting)
        model = setting.client.model
        forward: list[tuple[float, ForwardPrior]] = (
            [(self.statistics, BatchStatistics(model, known))] if known else []
        )
        alone = Match(
            setting.client,
            squared(setting.target),
            [(self.tv, total_variation), (self.small, mean_square)],
            forward,
        )
        starts = [
            setting.start(setting.clamp(setting.randn(*setting.shape))) for _ in range(self.seeds)
        ]
        stages = min(self.stages, self.iterations)
        lowest: list[float] = []
        for stage in range(stages):
            if not starts:
                break
            mean = torch.stack([s.codes[0] for s in starts]).mean(0)
            together = replace(alone, priors=[*alone.priors, (self.group, anchored(mean))])
            grouped = stage > 0 and self.seeds > 1
            reached = [
                self._descend(
                    setting,
                    together if grouped else alone,
                    alone,
                    start,
                    stage,
                    self.iterations // stages,
                    best,
                )
                for start in starts
            ]
            starts = [found[0] for found in reached if found is not None]
            lowest = [found[1] for found in reached if found is not None]
        return {"seeds": lowest, "batchnorm_layers": len(known)}

    def _descend(
        self,
        setting: Setting,
        match: Match,
        alone: Match,
        start: Start,
        stage: int,
        steps: int,
        best: Best,
    ) -> tuple[Start, float] | None:
        """One seed's stage; it counts for `best` without the pull towards the others.

        None if no candidate of it was finite.
        """
        own = Best()
        optimizer = Adam(self.lr * 0.3**stage, signed=False, decays=False)
        try:
            descend(match, start, optimizer, steps, setting.bounds, own)
        finally:
            best.evaluations += own.evaluations
            best.undefined += own.undefined
            if match is alone and own.inputs is not None and own.labels is not None:
                best.offer(own.value, own.inputs, own.labels)
        if own.inputs is None or own.labels is None:
            return None
        leaf = own.inputs.clone().requires_grad_(True)
        value = alone.evaluate(leaf, own.labels, [leaf])[0]
        best.offer(value, own.inputs, own.labels)
        return replace(start, codes=[own.inputs.clone()], labels=own.labels.clone()), value


def known_statistics(setting: Setting) -> Statistics:
    """Statistics to aim at: granted, or the running ones of a model that has seen data.

    A running average r after n batches at momentum a still holds (1 - a)^n of where it began, which
    is taken off.
    """
    granted = setting.problem.knows.batchnorm_statistics
    if granted is not None:
        return granted
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in setting.problem.model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        seen = module.num_batches_tracked
        if module.running_mean is None or module.running_var is None or seen is None:
            continue
        if int(seen) > 0:
            kept = 0.0 if module.momentum is None else (1 - module.momentum) ** int(seen)
            mean = module.running_mean / (1 - kept)
            var = ((module.running_var - kept) / (1 - kept)).clamp_min(0)
            found[name] = (mean, var)
    return found
