"""What every defence has in common: places where it may step in, each doing nothing by default.

A client's way from the sent parameters to its reply has five of them, in this order:

========================  ============================================  ======================
hook                      what it may change                            for example
========================  ============================================  ======================
`Defense.on_model`        the model, before any local step              dropout
`Defense.on_batch`        inputs and targets of one local step          mixup
`Defense.on_samples`      gradients of the step's samples, one by one   clipping in DP-SGD
`Defense.on_gradient`     the mean gradient of the step                 noise in DP-SGD
`Defense.on_update`       what the local steps add up to                pruning, local DP
========================  ============================================  ======================

`Defense.on_server` steps in on the other side. At every place, several defences act one after
another in the order in which they are given.

Defences act on trainable parameters alone. Buffers, the running statistics of batch normalisation
for one, have no gradient; where clients return weights, they go along as they are. A defence whose
promise that would break says so in `Defense.check`, before anything runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from flwr.serverapp.strategy import Strategy
from torch import Generator, Tensor, nn

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """One local step, for defences that have to look at more than its gradient.

    Attributes
    ----------
    model : nn.Module
        With the parameters at which the gradient was taken.
    inputs : Tensor of shape (B, C, H, W)
        After every `on_batch`.
    target : Tensor of shape (B, classes)
        Class probabilities, after every `on_batch`.
    """

    model: nn.Module
    inputs: Tensor
    target: Tensor


@dataclass(frozen=True)
class Cohort:
    """Who takes part in a round, for defences on the server.

    Attributes
    ----------
    count, per_round : int
        Clients there are, and clients of one round.
    reply : str
        "weights" or "gradient".
    seed : int
        The scenario's.
    """

    count: int
    per_round: int
    reply: str
    seed: int


class Defense:
    """A defence. Subclasses hold hyperparameters only, and override the hooks they need.

    Attributes
    ----------
    per_sample : bool
        Whether `on_samples` is needed; gradients are computed sample by sample only then.
    couples_samples : bool
        Whether what becomes of one sample's gradient depends on the batch's other samples. Then a
        bound on each gradient does not bound what one sample changes, and defences with
        `per_sample` guarantee nothing beside this one.
    """

    per_sample: ClassVar[bool] = False
    couples_samples: ClassVar[bool] = False

    def check(self, model: nn.Module, reply: str) -> None:
        """Refuse a model that the defence cannot protect as it says.

        Parameters
        ----------
        model : nn.Module
            The scenario's.
        reply : str
            "weights" or "gradient".

        Raises
        ------
        ValueError
            Naming the defence and what is wrong with the model.
        """

    def on_model(self, model: nn.Module, generator: Generator) -> None:
        """Change the client's copy of the model, in place, before any local step.

        Parameters
        ----------
        model : nn.Module
            Parameter names have to stay.
        generator : torch.Generator
            As in all hooks, the only source of randomness.
        """

    def on_batch(
        self, inputs: Tensor, target: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return another batch for a local step.

        Parameters
        ----------
        inputs : Tensor of shape (B, C, H, W)
        target : Tensor of shape (B, classes)
            Class probabilities.
        generator : torch.Generator

        Returns
        -------
        inputs, target : Tensors of the same shapes
        """
        return inputs, target

    def on_samples(self, gradients: Tensors, generator: Generator) -> Tensors:
        """Return other gradients of a step's single samples.

        Parameters
        ----------
        gradients : dict from parameter name to Tensor of shape (B, *parameter.shape)
            Of each sample's own loss.
        generator : torch.Generator

        Returns
        -------
        dict of the same names and shapes
        """
        return gradients

    def on_gradient(self, gradient: Tensors, step: Step, generator: Generator) -> Tensors:
        """Return another mean gradient for a local step.

        Parameters
        ----------
        gradient : dict from parameter name to Tensor
        step : Step
            What it was taken of.
        generator : torch.Generator

        Returns
        -------
        dict of the same names and shapes
        """
        return gradient

    def on_update(self, update: Tensors, scale: float, generator: Generator) -> Tensors:
        """Return another update to send.

        Parameters
        ----------
        update : dict from parameter name to Tensor
            Mean gradient of the client's local steps for each trainable parameter, on the CPU;
            left as it is.
        scale : float
            The weights move by ``-scale * update``: learning rate times local steps, or 1 where
            clients send gradients.
        generator : torch.Generator

        Returns
        -------
        dict from parameter name to Tensor
            The same names and shapes.
        """
        return update

    def on_server(self, strategy: Strategy, cohort: Cohort) -> Strategy:
        """Return the strategy that aggregates instead.

        Parameters
        ----------
        strategy : flwr.serverapp.strategy.Strategy
            Aggregates without the defence.
        cohort : Cohort
            Who takes part.

        Raises
        ------
        ValueError
            If the defence cannot work with what the clients return.
        """
        return strategy

    def budget(self, updates: int, steps: int, rate: float) -> float | None:
        """Return what the defence guarantees against the server, or None for no guarantee.

        Parameters
        ----------
        updates : int
            Updates the client has sent so far.
        steps : int
            Local steps behind them, in all.
        rate : float
            Share of the client's samples in one step's batch.

        Returns
        -------
        float or None
            The epsilon of (epsilon, delta)-differential privacy, at the defence's own delta.
        """
        return None


def defend(
    defenses: Sequence[Defense], update: Tensors, scale: float, generator: Generator
) -> Tensors:
    """Apply several defences to an update, one after another; see `Defense.on_update`."""
    for defense in defenses:
        update = defense.on_update(update, scale, generator)
    return update


def refuse_buffers(name: str, model: nn.Module) -> None:
    """Refuse a model whose buffers travel with its weights, past a defence that promises privacy.

    Parameters
    ----------
    name : str
        Of the defence, as it is configured.
    model : nn.Module

    Raises
    ------
    ValueError
        Naming the first buffer.
    """
    travelling = set(model.state_dict())
    if buffers := [key for key, _ in model.named_buffers() if key in travelling]:
        raise ValueError(
            f"defense={name} protects parameters alone, and this model also sends buffers "
            f"({buffers[0]!r}); choose a model without batch normalisation "
            "(model.norm=group for one)."
        )


def total_norm(tensors: Tensors) -> Tensor:
    """Return the L2 norm over all tensors together."""
    return torch.linalg.vector_norm(torch.stack([t.norm() for t in tensors.values()]))


def normal(like: Tensor, generator: Generator) -> Tensor:
    """Draw standard normal numbers in the shape, dtype and device of a tensor."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def uniform(like: Tensor, generator: Generator) -> Tensor:
    """Draw numbers uniform on [0, 1) in the shape, dtype and device of a tensor."""
    return torch.rand(like.shape, generator=generator, dtype=like.dtype).to(like.device)
