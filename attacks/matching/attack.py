"""What optimisation attacks share: from a problem to something to descend on, and back."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacks.base import Attack, NotApplicable, Problem, Reconstruction
from attacks.batch_size import batch_size_of
from attacks.labels import inferred_labels
from attacks.linear import LinearCall, linear_calls
from attacks.matching.client import Client, private_model
from attacks.matching.core import Best, Match, Start, descend
from attacks.matching.derivatives import check_derivatives, undifferentiable
from attacks.matching.kernels import count_products, suited_kernels
from attacks.matching.objective import Measure
from attacks.matching.optimizers import Bounds, Optimizer
from attacks.matching.priors import ForwardPrior, Prior
from attacks.matching.quiet import quieten
from attacks.reading.inputs import random_inputs, resolve_input_shape
from attacks.reading.randomness import kept_randomness


@dataclass(frozen=True)
class Setting:
    """A problem, prepared.

    Attributes
    ----------
    problem : Problem
        As it came.
    shape : tuple of int
        (B, *input_shape).
    batch_size : int, optional
        Estimate from the gradient alone.
    labels : Tensor, optional
        Granted or inferred; None if they are to be optimised.
    client : Client
        Simulates the gradient.
    target : list of Tensor
        The observed gradient, in the order of the client's names.
    bounds : (low, high), optional
        Granted range of the inputs.
    outputs : int
        Number of the model's outputs.
    products : int
        Multiplications in a forward pass of the batch.
    """

    problem: Problem
    shape: tuple[int, ...]
    batch_size: int | None
    labels: Tensor | None
    client: Client
    target: list[Tensor]
    bounds: Bounds
    outputs: int
    products: int

    def randn(self, *shape: int) -> Tensor:
        """Standard normal numbers from the problem's generator, on the model's device."""
        generator = self.problem.generator
        return torch.randn(*shape, generator=generator, device=generator.device).to(self.target[0])

    def start(self, inputs: Tensor) -> Start:
        """A descent on the inputs themselves, and on the labels if they are not known."""
        if self.labels is not None:
            return Start([inputs], self.labels)
        return Start([inputs], self.randn(len(inputs), self.outputs), free_labels=True)

    @property
    def any_labels(self) -> Tensor:
        """The labels, or some where they are not known."""
        if self.labels is not None:
            return self.labels
        return self.target[0].new_zeros(self.shape[0], self.outputs)

    def clamp(self, inputs: Tensor) -> Tensor:
        """Inputs within the granted range, if one is granted."""
        return inputs if self.bounds is None else inputs.clamp(*self.bounds)


class MatchingAttack(Attack):
    """Base of the attacks that search a batch whose gradient is the observed one.

    Subclasses say in `search` which descents to make. `iterations`, `restarts`, `local_steps` and
    `local_lr` are hyperparameters each of them stores.
    """

    precision: torch.dtype | None = None
    """Of the search; None for the gradient's own."""

    infers_labels = True
    """Whether class labels that are not granted are inferred; otherwise they are optimised."""

    iterations: int
    restarts: int
    local_steps: int
    local_lr: float

    @abstractmethod
    def search(self, setting: Setting, best: Best) -> dict[str, Any]:
        """Search for the batch.

        Parameters
        ----------
        setting : Setting
            The prepared problem.
        best : Best
            Filled in place, so that an interruption loses nothing.

        Returns
        -------
        dict
            Diagnostics, for the reconstruction's `info`.
        """

    def reconstruct(self, problem: Problem) -> Reconstruction:
        """Reconstruct the batch; see `Attack.run`.

        Raises
        ------
        NotApplicable
            If input shape or batch size are neither granted nor readable, or a layer or the loss
            cannot be differentiated twice.
        """
        setting = self.prepare(problem)
        best = Best()
        seed = problem.generator.initial_seed()  # of a model that draws in any mode
        started = time.perf_counter()
        info: dict[str, Any] = {"interrupted": False}
        try:
            with suited_kernels(setting.products), kept_randomness(seed):
                check_derivatives(setting.client, setting.shape, setting.any_labels)
                info |= self.search(setting, best)
        except KeyboardInterrupt:
            info["interrupted"] = True
        except RuntimeError as error:
            if reason := undifferentiable(setting.client, setting.shape, setting.any_labels):
                raise NotApplicable(reason) from error
            raise
        seconds = time.perf_counter() - started
        info |= {
            "objective": best.value,
            "evaluations": best.evaluations,
            "seconds_per_evaluation": seconds / max(best.evaluations, 1),
            "labels": _origin(problem, setting),
        }
        if best.undefined:
            info |= {"undefined": best.undefined, "reason": best.complaint}
        return _result(setting, best, info)

    def prepare(self, problem: Problem) -> Setting:
        """Everything a search needs.

        Raises
        ------
        NotApplicable
            If input shape or batch size are neither granted nor readable.
        """
        shape = resolve_input_shape(problem.model, problem.input_shape)
        calls = linear_calls(problem.model, shape)
        size, estimate = batch_size_of(problem, calls)
        dtype = self.precision or next(iter(problem.gradient.values())).dtype
        model = private_model(problem.model, dtype)
        quieten(model, random_inputs(model, shape, size))
        client = Client(
            model, tuple(problem.gradient), problem.loss, self.local_steps, self.local_lr
        )
        target = [g.to(dtype) for g in problem.gradient.values()]
        outputs, products = _size_of(problem, shape)
        return Setting(
            problem=problem,
            shape=(size, *shape),
            batch_size=estimate,
            labels=self._labels(problem, calls, size, target[0]),
            client=client,
            target=target,
            bounds=_bounds(problem, (size, *shape), target[0]),
            outputs=outputs,
            products=size * products,
        )

    def _labels(
        self, problem: Problem, calls: list[LinearCall], size: int, like: Tensor
    ) -> Tensor | None:
        granted = problem.knows.labels
        if granted is not None:
            granted = granted.to(like.device)
            targets = problem.loss in ("mse", "bce_with_logits")
            return granted.to(like) if targets else granted
        if not isinstance(problem.loss, str):
            raise NotApplicable(
                "Under a loss of the clients' own, labels are neither read nor optimised: grant "
                "them with attack.knows=[labels]."
            )
        if problem.loss != "cross_entropy" or not self.infers_labels:
            return None
        try:
            return inferred_labels(problem, calls, size).to(like.device)
        except NotApplicable:  # the model does not end in a linear layer: optimise them
            return None

    def descents(
        self,
        setting: Setting,
        best: Best,
        *,
        distance: Measure,
        optimizer: Optimizer,
        priors: Sequence[tuple[float, Prior]] = (),
        forward_priors: Sequence[tuple[float, ForwardPrior]] = (),
        tolerance: float = -math.inf,
    ) -> list[float]:
        """Descend from up to `restarts` standard normal inputs.

        Parameters
        ----------
        setting : Setting
            The prepared problem.
        best : Best
            Of all descents; changed in place.
        distance : Measure
            From the observed gradient.
        optimizer : Optimizer
            How to move.
        priors : sequence of (weight, Prior), default none
            On the candidate.
        forward_priors : sequence of (weight, ForwardPrior), default none
            On what it causes in the client's model.
        tolerance : float, default -inf
            No further descent begins once the lowest objective is at or below this.

        Returns
        -------
        list of float
            The lowest objective of each descent.
        """
        match = Match(setting.client, distance, priors, forward_priors)
        lowest: list[float] = []
        while len(lowest) < self.restarts and best.value > tolerance:
            start = setting.start(setting.clamp(setting.randn(*setting.shape)))
            lowest.append(descend(match, start, optimizer, self.iterations, setting.bounds, best))
        return lowest


def _result(setting: Setting, best: Best, info: dict[str, Any]) -> Reconstruction:
    dtype = next(iter(setting.problem.gradient.values())).dtype
    if best.inputs is None or best.labels is None:
        return Reconstruction(
            inputs=setting.target[0].new_zeros(0, *setting.shape[1:], dtype=dtype),
            batch_size=setting.batch_size,
            info=info,
        )
    labels = best.labels
    if setting.problem.loss == "cross_entropy" and labels.is_floating_point():
        labels = labels.argmax(1)
    elif labels.is_floating_point():
        labels = labels.to(dtype)
    n = len(best.inputs)
    return Reconstruction(
        inputs=best.inputs.to(dtype),
        labels=labels,
        certified=torch.zeros(n, dtype=torch.bool, device=labels.device),
        residual=torch.full((n,), best.value, dtype=dtype, device=labels.device),
        batch_size=setting.batch_size,
        info=info,
    )


def _bounds(problem: Problem, shape: tuple[int, ...], like: Tensor) -> Bounds:
    if problem.knows.data_range is None:
        return None
    low, high = (torch.as_tensor(b).to(like) for b in problem.knows.data_range)
    return low, high.expand(torch.broadcast_shapes(low.shape, high.shape))


def _size_of(problem: Problem, shape: tuple[int, ...]) -> tuple[int, int]:
    """Outputs and products in convolutions for one input."""
    like = next(iter(problem.gradient.values()))
    model = private_model(problem.model, like.dtype).eval()
    one = torch.zeros(1, *shape, dtype=like.dtype, device=like.device)
    with torch.no_grad():
        output: Tensor = model(one)
    return output.numel(), count_products(model, one)


def _origin(problem: Problem, setting: Setting) -> str:
    if problem.knows.labels is not None:
        return "granted"
    return "optimised" if setting.labels is None else "inferred"
