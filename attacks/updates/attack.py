"""`UpdateTensorAttack`: the exact attack on an update of several local steps.

The row space of the update holds every sample. `search` finds them approximately, either batch by
batch along the client's way or all at once; `finish` makes the simulated update equal the observed
one, which is also the certificate: equality up to rounding, for every parameter of the network.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attacks.base import NotApplicable, Problem, Reconstruction, in_layers
from attacks.reading.inputs import random_inputs, resolve_input_shape
from attacks.reading.once import naming_layers
from attacks.reading.private import private_copy
from attacks.settings import flag
from attacks.tensor.attack import TensorAttack, layer_gradient, readable_pair
from attacks.tensor.layers import LinearPair
from attacks.tensor.search import SearchSettings
from attacks.tensor.subspace import GradientSpace, gradient_space
from attacks.updates.attempts import Case
from attacks.updates.client import ReducedClient, Tensors, reduced_client, reduced_update
from attacks.updates.finish import Hypothesis
from attacks.updates.search import Settings

WORST_ERROR = 1e-2
"""Largest relative error an input may have and be certified."""

EXPLAINED = 20.0
"""Misfit, in units of what rounding makes one expect, up to which an update is explained."""


class UpdateTensorAttack(TensorAttack):
    """`TensorAttack` for clients that take several steps of SGD at a public learning rate.

    All steps take the same batch, or each takes its own (one epoch of mini-batches), or several
    epochs do; which it was is read off the update. Momentum is followed if it is public. One step,
    and the squared loss, are left to `TensorAttack`.

    Parameters
    ----------
    candidates, patience, blur, tensor_step
        As for `TensorAttack`.
    unroll : bool, default True
        Whether to simulate the client; without, the update is taken for a single gradient.
    """

    def __init__(
        self,
        candidates: int = 96,
        patience: int = 2,
        blur: tuple[float, ...] = (0.15, 0.05),
        tensor_step: bool = True,
        unroll: bool = True,
    ) -> None:
        super().__init__(candidates, patience, blur, tensor_step)
        self.unroll = flag("unroll", unroll)

    def reconstruct(self, problem: Problem) -> Reconstruction:
        """Reconstruct all samples of the update; see `Attack.run`.

        Raises
        ------
        NotApplicable
            If the steps to follow are not SGD's or of unknown learning rate, or the model does not
            begin with a pair of linear layers that determines the samples, or a layer has no second
            derivative.
        """
        problem = in_layers(problem)
        local = problem.local
        if not self.unroll or problem.loss != "cross_entropy":
            return super().reconstruct(problem)
        if local.optimizer != "sgd":
            raise NotApplicable(
                f"The steps of {local.optimizer} are no plain sums of gradients, which is what "
                "this attack follows."
            )
        if local.steps == 1:
            return super().reconstruct(problem)
        if local.lr is None:
            raise NotApplicable("Following several local steps needs their learning rate.")
        pair = readable_pair(problem)
        total = {name: value.double() * local.steps for name, value in problem.gradient.items()}
        layer = layer_gradient(replace(problem, gradient=total), pair)
        layer = replace(layer, precision=rounding(problem, pair))
        space = gradient_space(layer)
        if space.rank == 0 or space.rank >= min(layer.weight.shape):
            return super().reconstruct(problem)
        settings = Settings(
            SearchSettings(self.candidates, self.blur, self.tensor_step), self.patience
        )
        noise = expected_misfit(problem, total)
        case = Case(
            problem=problem,
            pair=pair,
            total=total,
            space=space,
            client=reduced_client(problem.model, pair, layer, space, local.lr, local.momentum),
            observed=reduced_update(total, pair, layer, space),
            settings=settings,
            goal=EXPLAINED * noise,
        )
        best, least, tried, interrupted = Hypothesis.nothing(space.V), float("inf"), 0, False
        kind = ""
        whole = private_copy(problem.model).eval()
        shape = resolve_input_shape(whole, problem.input_shape)
        probe = random_inputs(whole, shape, 2)
        try:
            with naming_layers(whole, probe, "an attack that follows several steps"):
                for name, guess, misfit in case.attempts():
                    tried += 1
                    if misfit < least or (misfit == least and len(guess) > len(best)):
                        best, least, kind = guess, misfit, name
                    if least <= case.goal:
                        break
        except KeyboardInterrupt:
            interrupted = True
        error = torch.full_like(best.points[:, 0], torch.inf)
        if least < float("inf"):
            error = error_bound(case.client, case.observed, best, least, space)
        info: dict[str, Any] = {
            "rank": space.rank,
            "found": len(best),
            "steps_took": kind,
            "starts": tried,
            "misfit": least,
            "expected_misfit": noise,
            "interrupted": interrupted,
        }
        return reported(problem, pair, space, best, error, least <= case.goal, info)


def rounding(problem: Problem, pair: LinearPair) -> float:
    """Unit roundoff of the update's first layer: that of the weights, over how far they moved.

    Parameters
    ----------
    problem : Problem
        With a public learning rate.
    pair : LinearPair
        At the model's input.

    Returns
    -------
    float
        Never below the weights' own.
    """
    weight = problem.model.get_parameter(f"{pair.hidden}.weight")
    gradient = problem.gradient[f"{pair.hidden}.weight"]
    own = torch.finfo(weight.dtype).eps / 2
    assert problem.local.lr is not None
    moved = problem.local.lr * problem.local.steps * float(gradient.norm())
    return own * max(1.0, float(weight.detach().norm()) / max(moved, 1e-300))


def expected_misfit(problem: Problem, total: Tensors) -> float:
    """Misfit that the rounding of the client's weights in each step explains.

    Parameters
    ----------
    problem : Problem
        With a public learning rate.
    total : dict from parameter name to Tensor
        Sum of the steps' gradients.

    Returns
    -------
    float
        Of all parameters, each relative to its own norm.
    """
    steps, lr = problem.local.steps, problem.local.lr
    assert lr is not None
    square = 0.0
    for name, value in total.items():
        parameter = problem.model.get_parameter(name).detach()
        unit = torch.finfo(parameter.dtype).eps / 2
        size = unit * float(parameter.norm()) / (lr * max(float(value.norm()), 1e-300))
        square += steps * (size + unit) ** 2
    return square**0.5


def error_bound(
    client: ReducedClient,
    observed: Tensors,
    guess: Hypothesis,
    misfit: float,
    space: GradientSpace,
) -> Tensor:
    """Relative error of each sample that a misfit of the first layer can have caused.

    Parameters
    ----------
    client : ReducedClient
        Simulates the steps.
    observed : dict from parameter name to Tensor
        Sum of the steps' gradients, in the client's coordinates.
    guess : Hypothesis
        Of n samples.
    misfit : float
        Norm of what the samples leave unexplained, relative to the update.
    space : GradientSpace
        Whose coordinates the samples have.

    Returns
    -------
    Tensor of shape (n,)
    """
    D = client.columns(guess.points, guess.labels, guess.order)
    size = observed[f"{client.hidden}.weight"].norm()
    sizes = space.lengths(guess.points)
    return misfit * size * torch.linalg.pinv(D).norm(dim=1) / sizes.clamp_min(1e-300)


def reported(
    problem: Problem,
    pair: LinearPair,
    space: GradientSpace,
    guess: Hypothesis,
    error: Tensor,
    explained: bool,
    info: dict,
) -> Reconstruction:
    """Return samples as inputs of the model.

    Parameters
    ----------
    problem : Problem
        Gives shape and dtype of the inputs.
    pair : LinearPair
        At the model's input.
    space : GradientSpace
        Whose coordinates the samples have.
    guess : Hypothesis
        Of n samples.
    error : Tensor of shape (n,)
        Bounds of their relative errors; certified up to `WORST_ERROR`.
    explained : bool
        Whether they explain the update; otherwise none is certified.
    info : dict
        Diagnostics.

    Returns
    -------
    Reconstruction
        With the error bounds as residuals and the space's rank as batch size.
    """
    dtype = problem.gradient[f"{pair.hidden}.weight"].dtype
    shape = problem.input_shape or (pair.in_features,)
    inputs = (guess.points @ space.V.T)[:, : pair.in_features].reshape(-1, *shape)
    return Reconstruction(
        inputs=inputs.to(dtype),
        labels=guess.labels,
        certified=(error <= WORST_ERROR) & explained,
        residual=error.to(dtype),
        batch_size=space.rank,
        info=info,
    )
