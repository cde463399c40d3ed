"""What every attack has in common: a gradient goes in, a `Reconstruction` comes out.

An attack is an object that holds hyperparameters and nothing else. Its `run` takes the model the
server sent and the gradient a client returned, checks them, and calls `reconstruct`, the one method
an attack has to write. What the threat model grants beyond that (labels, batch size, data range)
arrives in a `Knowledge`, which is empty unless somebody fills it by name.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from attacks.errors import Interrupted, NotApplicable
from attacks.knowledge import Knowledge, LocalWork
from attacks.reading.handover import named_gradient
from attacks.reading.inputs import checked_shape, drawing, resolve_input_shape
from attacks.reading.losses import Loss, checked_loss, credible, understood
from attacks.reading.modular import modular
from attacks.reading.private import differentiating, kept_buffers, private_copy
from attacks.reading.randomness import kept_randomness

__all__ = [
    "Attack",
    "Interrupted",
    "Knowledge",
    "LocalWork",
    "Loss",
    "NotApplicable",
    "Problem",
    "Reconstruction",
    "in_layers",
    "validate_gradient",
]


@dataclass(frozen=True)
class Problem:
    """One checked instance: everything an attack may look at.

    Attributes
    ----------
    model : nn.Module
        A private copy (`attacks.reading.private`) that holds the parameters the server sent.
    gradient : dict from parameter name to Tensor
        Gradient of the mean loss over the batch; the names and shapes of ``named_parameters``.
    input_shape : tuple of int, optional
        Shape of one input, without the batch dimension.
    loss : "cross_entropy", "mse", "bce_with_logits" or callable
        Mean-reduced over the batch (and over the outputs for all but cross entropy); a function of
        output and target that is none of the named ones is taken as it is.
    knows : Knowledge
        What the threat model grants.
    generator : torch.Generator
        The only source of randomness, on the CPU.
    local : LocalWork
        What the gradient sums up: with more than one step it is the mean of the steps' gradients,
        each taken where the steps before had led.
    """

    model: nn.Module
    gradient: dict[str, Tensor]
    input_shape: tuple[int, ...] | None
    loss: Loss
    knows: Knowledge
    generator: torch.Generator
    local: LocalWork = field(default_factory=LocalWork)


@dataclass(frozen=True)
class Reconstruction:
    """What an attack read out of one gradient. `n` may be smaller than the batch, never larger
    for the sake of filling it.

    Attributes
    ----------
    inputs : Tensor of shape (n, *input_shape)
        Reconstructed inputs in the model's input space.
    labels : Tensor of shape (n,), optional
        Reconstructed labels (class index, or target for "mse").
    certified : bool Tensor of shape (n,)
        Whether an equation that only a true sample satisfies holds for this input.
    residual : Tensor of shape (n,)
        Residual of the attack's own criterion, computed without the truth; smaller is better.
    batch_size : int, optional
        Estimate of the batch size from the gradient alone.
    seconds : float
        Wall time of the attack.
    info : dict
        Diagnostics of the attack, plain numbers and strings.
    features : Tensor of shape (n, F), optional
        What an inner layer saw of each input, where the attack reads that first.
    features_certified : bool Tensor of shape (n,), optional
        Whether an equation that only true features satisfy holds for these. An input may be none
        of the batch's all the same: what stands before the layer may draw at random, or look at
        other samples.
    """

    inputs: Tensor
    labels: Tensor | None = None
    certified: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    residual: Tensor = field(default_factory=lambda: torch.zeros(0))
    batch_size: int | None = None
    seconds: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)
    features: Tensor | None = None
    features_certified: Tensor | None = None

    def __post_init__(self) -> None:
        n = len(self.inputs)
        for name in ("labels", "certified", "residual", "features", "features_certified"):
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise ValueError(f"Reconstruction.{name} has {len(value)} entries for {n} inputs.")
            if value is not None:  # the defaults of an empty one are made on the CPU
                object.__setattr__(self, name, value.to(self.inputs.device))

    def __len__(self) -> int:
        return len(self.inputs)


def in_layers(problem: Problem, unsteady: bool = False) -> Problem:
    """The same problem with a linear layer wherever the model multiplies by weights of its own.

    Parameters
    ----------
    problem : Problem
        Of any model.
    unsteady : bool, default False
        Whether a model that treats its input in another way in training mode is rewritten as well.

    Returns
    -------
    Problem
        `problem` itself if its model is written in layers.

    Raises
    ------
    NotApplicable
        If the input shape is not known, or the model does not take it.
    """
    shape = resolve_input_shape(problem.model, problem.input_shape)
    draw = drawing(problem.model, shape)
    model, gradient = modular(problem.model, problem.gradient, draw, unsteady)
    if model is problem.model:
        return problem
    return replace(problem, model=model, gradient=gradient, input_shape=shape)


class Attack(ABC):
    """Base of all attacks: validates, times, and hands a `Problem` to `reconstruct`.

    Subclasses take hyperparameters with defaults in their constructor, store each under its own
    name, and implement `reconstruct`.
    """

    def run(
        self,
        model: nn.Module,
        gradient: Mapping[str, Any] | Iterable[Any],
        *,
        input_shape: tuple[int, ...] | None = None,
        loss: Loss = "cross_entropy",
        knows: Knowledge | Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
        local: LocalWork | None = None,
    ) -> Reconstruction:
        """Reconstruct the batch behind a gradient.

        Parameters
        ----------
        model : nn.Module
            Holds the parameters the server sent; left as it was found.
        gradient : mapping from parameter name to Tensor, or iterable of Tensor
            Gradient of the mean loss over the batch, named as in ``model.named_parameters()`` or in
            the order of ``model.parameters()``; see `attacks.reading.handover.named_gradient` for
            what else is understood.
        input_shape : tuple of int, optional
            Shape of one input; by default whatever the attack can tell from the model.
        loss : str or callable, default "cross_entropy"
            The clients' loss, mean-reduced: "cross_entropy", "mse", "bce_with_logits", "nll", or a
            function of output and target that returns a scalar.
        knows : Knowledge, or mapping from its fields' names, optional
            What the threat model grants; by default nothing.
        generator : torch.Generator, optional
            Source of randomness; by default one seeded with 0. One of an accelerator seeds one of
            the CPU, which all numbers are drawn on, so that they do not depend on the model's
            device.
        local : LocalWork, optional
            The clients' work as the protocol prescribes it; by default a single step.

        Returns
        -------
        Reconstruction
            What was found.

        Raises
        ------
        ValueError
            If the loss is unknown, a grant or the shape makes no sense, or a gradient is missing,
            unexpected, of the wrong shape, or not finite; the message names the parameter.
        NotApplicable
            If the attack cannot read this kind of model.
        TypeError
            If `reconstruct` does not return what it has to.
        """
        checked_loss(loss)
        shape = checked_shape(input_shape)
        if not isinstance(generator, torch.Generator | None):
            raise ValueError(f"generator={generator!r} is no torch.Generator.")
        with kept_randomness(), kept_buffers(model), differentiating():
            return self._run(
                model, gradient, shape, loss, Knowledge.of(knows), generator, local or LocalWork()
            )

    def _run(
        self,
        model: nn.Module,
        gradient: Mapping[str, Any] | Iterable[Any],
        shape: tuple[int, ...] | None,
        loss: Loss,
        knows: Knowledge,
        generator: torch.Generator | None,
        local: LocalWork,
    ) -> Reconstruction:
        """`run` on checked values."""
        knows.check_shape(shape)
        private = private_copy(model)
        named = named_gradient(private, gradient)
        for name, parameter in private.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or name in named)
        problem = Problem(
            model=private,
            gradient=named,
            input_shape=shape,
            loss=credible(understood(loss, private, shape), private, shape),
            knows=knows,
            generator=_on_cpu(generator or torch.Generator().manual_seed(0)),
            local=local,
        )
        start = time.perf_counter()
        found = self.reconstruct(problem)
        if not isinstance(found, Reconstruction):
            kind = type(found).__name__
            raise TypeError(
                f"{type(self).__name__}.reconstruct returned no Reconstruction: {kind}."
            )
        return replace(found, seconds=time.perf_counter() - start)

    @abstractmethod
    def reconstruct(self, problem: Problem) -> Reconstruction:
        """Reconstruct the batch of a checked problem."""

    def __repr__(self) -> str:
        settings = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({settings})"


def _on_cpu(generator: torch.Generator) -> torch.Generator:
    """The generator itself if it draws on the CPU, else one that it seeds."""
    if generator.device.type == "cpu":
        return generator
    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
    return torch.Generator().manual_seed(int(seed))


def validate_gradient(
    model: nn.Module, gradient: Mapping[str, Any] | Iterable[Any]
) -> dict[str, Tensor]:
    """Check that a gradient fits a model.

    Parameters
    ----------
    model : nn.Module
        Its ``named_parameters`` that require a gradient say which names and shapes are expected.
    gradient : mapping from parameter name to Tensor, or iterable of Tensor
        What a client returned; see `attacks.reading.handover.named_gradient`.

    Returns
    -------
    dict from parameter name to Tensor
        The same tensors, detached, in the order and under the names of the bare model.

    Raises
    ------
    ValueError
        If a name is missing or unexpected, a shape is wrong, or a value is NaN or infinite.
    """
    return named_gradient(private_copy(model), gradient)
