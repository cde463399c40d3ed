"""`CocktailPartyAttack`: unmix a linear layer's gradient by independent component analysis.

Every row of dL/dW is a mixture of the batch's inputs. Kariyappa et al. (2022, arXiv 2209.05578)
treat the B inputs as independent signals over the pixels and look for the unmixing that makes what
comes out least Gaussian, while images stay smooth and not alike. Approximate, but it needs no
activation: nothing but the row space is used. FastICA (Hyvärinen 1999) finds the start, the paper's
objective refines it, and the bias' gradient, unmixed alike, gives scale and sign.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from attacks.analytic import input_layer
from attacks.base import Attack, Problem, Reconstruction, in_layers
from attacks.batch_size import batch_size_of
from attacks.linear import linear_calls
from attacks.matching.optimizers import Adam
from attacks.matching.priors import total_variation
from attacks.reading.inputs import resolve_input_shape
from attacks.settings import count, positive, weight


class CocktailPartyAttack(Attack):
    """Independent component analysis of the first linear layer's gradient.

    Parameters
    ----------
    iterations : int, default 2000
        Steps of Adam on the paper's objective after FastICA.
    tv : float, default 3.0
        Weight of the total variation of the unmixed images, each of unit variance.
    alike : float, default 0.1
        Weight of the squared cosine between unmixing vectors.
    lr : float, default 0.01
        Step size of Adam on the unmixing matrix.
    """

    def __init__(
        self, iterations: int = 2000, tv: float = 3.0, alike: float = 0.1, lr: float = 0.01
    ) -> None:
        self.iterations = count("iterations", iterations)
        self.tv = weight("tv", tv)
        self.alike = weight("alike", alike)
        self.lr = positive("lr", lr)

    def reconstruct(self, problem: Problem) -> Reconstruction:
        """Reconstruct the batch; see `Attack.run`."""
        problem = in_layers(problem)
        shape = resolve_input_shape(problem.model, problem.input_shape)
        calls = linear_calls(problem.model, shape)
        layer = input_layer(problem, calls)
        size, estimate = batch_size_of(problem, calls)
        dW, db = problem.gradient[layer.weight], problem.gradient[layer.bias]
        rows = torch.cat([dW, db[:, None]], 1).double()
        signals = torch.linalg.svd(rows, full_matrices=False).Vh[:size]  # (B, d + 1)
        white, whitener = whiten(signals[:, :-1])
        info: dict[str, Any] = {"layer": layer.name, "interrupted": False}
        best = [torch.eye(len(white), dtype=white.dtype, device=white.device)]
        value = math.inf
        try:
            best[0] = fast_ica(white, problem.generator)
            value = self._refine(white, shape, best)
        except KeyboardInterrupt:
            info["interrupted"] = True
        unmixed = best[0] @ whitener @ signals
        inputs = unmixed[:, :-1] / unmixed[:, -1:]
        if problem.knows.data_range is not None:
            low, high = (torch.as_tensor(b).to(inputs) for b in problem.knows.data_range)
            inputs = inputs.reshape(-1, *shape).clamp(low, high)
        return Reconstruction(
            inputs=inputs.reshape(-1, *shape).to(dW.dtype),
            certified=torch.zeros(len(inputs), dtype=torch.bool, device=dW.device),
            residual=torch.full((len(inputs),), value, dtype=dW.dtype, device=dW.device),
            batch_size=estimate,
            info=info | {"objective": value},
        )

    def _refine(self, white: Tensor, shape: tuple[int, ...], best: list[Tensor]) -> float:
        """Descend on the paper's objective; keeps the best unmixing in `best`."""
        lowest = math.inf

        def evaluate(current: list[Tensor]) -> tuple[float, list[Tensor]]:
            nonlocal lowest
            with torch.enable_grad():
                raw = current[0].detach().requires_grad_(True)
                unmixing = raw / raw.norm(dim=1, keepdim=True)
                sources = unmixing @ white
                cosines = (unmixing @ unmixing.T).square()
                repulsion = (cosines.sum() - len(cosines)) / max(len(cosines), 1)
                value = self.alike * repulsion - negentropy(sources).mean()
                images = sources.reshape(-1, *shape)
                rough, slope = total_variation(images.detach())
                (gradient,) = torch.autograd.grad(
                    [value, images], [raw], [torch.ones_like(value), self.tv * slope]
                )
            total = float(value.detach() + self.tv * rough)
            if total < lowest:
                lowest, best[0] = total, unmixing.detach().clone()
            return total, [gradient]

        with torch.no_grad():
            Adam(self.lr, signed=False).minimise(evaluate, [best[0].clone()], self.iterations, None)
        return lowest


def whiten(signals: Tensor) -> tuple[Tensor, Tensor]:
    """Centred signals of unit covariance, and the matrix that makes them so.

    Parameters
    ----------
    signals : Tensor of shape (B, d)

    Returns
    -------
    white : Tensor of shape (B, d)
        ``whitener @ (signals - mean)``.
    whitener : Tensor of shape (B, B)
    """
    centred = signals - signals.mean(1, keepdim=True)
    values, vectors = torch.linalg.eigh(centred @ centred.T / signals.shape[1])
    whitener = vectors.T / values.clamp_min(1e-12 * values.max()).sqrt()[:, None]
    return whitener @ centred, whitener


def fast_ica(white: Tensor, generator: torch.Generator, iterations: int = 200) -> Tensor:
    """Symmetric FastICA with the log cosh contrast.

    Parameters
    ----------
    white : Tensor of shape (B, d)
        Whitened signals.
    generator : torch.Generator
        Draws the start.
    iterations : int, default 200
        Most fixed-point steps.

    Returns
    -------
    Tensor of shape (B, B)
        Orthogonal unmixing matrix.
    """
    B, d = white.shape
    draw = torch.randn(B, B, generator=generator, device=generator.device)
    unmixing = _orthogonalised(draw.to(white))
    for _ in range(iterations):
        bent = torch.tanh(unmixing @ white)
        new = bent @ white.T / d - (1 - bent.square()).mean(1, keepdim=True) * unmixing
        new = _orthogonalised(new)
        turned = float(((new * unmixing).sum(1).abs() - 1).abs().max())
        unmixing = new
        if turned < 1e-8:
            break
    return unmixing


def negentropy(sources: Tensor) -> Tensor:
    """Distance from a Gaussian, (E log cosh s - E log cosh n)^2 with n ~ N(0, 1), per row.

    Parameters
    ----------
    sources : Tensor of shape (B, d)
        Of unit variance.

    Returns
    -------
    Tensor of shape (B,)
    """
    magnitude = sources.abs()
    contrast = magnitude + torch.nn.functional.softplus(-2 * magnitude) - math.log(2)
    return (contrast.mean(1) - 0.3745672).square()


def _orthogonalised(matrix: Tensor) -> Tensor:
    """Nearest orthogonal matrix."""
    U, _, Vh = torch.linalg.svd(matrix)
    return U @ Vh
