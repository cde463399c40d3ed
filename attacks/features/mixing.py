"""All features of a small batch at once, where they are too much alike to be found one by one.

Behind saturated units the features of a batch differ by a percent or two, and samples of one label
send back nearly the same error: every mixture of them nearly meets the equation of a single sample.
Together they do not. The layer's gradient is D C Q' with an orthonormal basis Q of its row space,
so the samples are Q c_i for some coordinates c_i, B (B - 1) unknowns in all, and given these both
layers' gradients predict each other:

    [phi_i, 1] = Q c_i,   A = [s(W phi), 1],   E = dL/dW2~ pinv(A),   D_i = s'(W phi_i) o W2' E_i,
    r(C) = ( dL/dW~ Q - D C,   dL/dW2~ (I - pinv(A) A) ).

Levenberg-Marquardt from a few random mixtures finds the zero, most often from the first. What is
left of r says, without the truth, whether it did: it has to be no more than the gradient's noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import jacfwd, jvp

from attacks.base import Problem
from attacks.features.front import Tail
from attacks.features.reading import Features, joined_gradient, row_space
from attacks.tensor.activation import Activation
from attacks.tensor.labels import read_labels
from attacks.tensor.layers import LinearPair

LARGEST = 8
"""Most samples: the Jacobian has their square of columns."""
STARTS = 12
STEPS = 40
RIDGE = 1e-15
EXPLAINED = 3.0
"""Residual in units of the gradient's noise up to which a solution is believed."""
SPREADS = (0.03, 0.01, 0.1, 0.003)
"""Distances of random mixtures from the common mean, relative to it, in turn."""


@dataclass(frozen=True)
class Mixture:
    """The two gradients and the layers between them, in the coordinates of the row space.

    Attributes
    ----------
    hidden : Tensor of shape (m, B)
        dL/dW~ Q.
    weight : Tensor of shape (m, B)
        [W, b] Q: pre-activations of c are its product with c.
    outgoing : Tensor of shape (o, m) or (o, m + 1)
        dL/dW2~.
    back : Tensor of shape (o, m)
        W2.
    activation : Activation
        Smooth.
    biased : bool
        Whether the second layer has a bias.
    origin : Tensor of shape (B,)
        Coordinates whose last entry Q c is 1, nearest to zero.
    directions : Tensor of shape (B - 1, B)
        Orthonormal, which leave that entry alone.
    noise : tuple of two floats
        Expected norms of r's two parts.
    """

    hidden: Tensor
    weight: Tensor
    outgoing: Tensor
    back: Tensor
    activation: Activation
    biased: bool
    origin: Tensor
    directions: Tensor
    noise: tuple[float, float]

    def coordinates(self, t: Tensor) -> Tensor:
        """C (B, B) of free unknowns (B (B - 1),)."""
        return self.origin + t.reshape(-1, len(self.directions)) @ self.directions

    def errors(self, C: Tensor) -> tuple[Tensor, Tensor]:
        """E (B, o) and A (B, m or m + 1)."""
        active = self.activation.function(C @ self.weight.T)
        if self.biased:
            active = torch.cat([active, torch.ones_like(active[:, :1])], 1)
        gram = active @ active.T
        ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(C), dtype=C.dtype, device=C.device)
        return torch.linalg.solve(gram + ridge, active @ self.outgoing.T), active

    def residual(self, t: Tensor) -> Tensor:
        """The r of the file's head in units of its noise, each part of expected norm 1."""
        C = self.coordinates(t)
        z = C @ self.weight.T
        slope = jvp(self.activation.function, (z,), (torch.ones_like(z),))[1]
        E, active = self.errors(C)
        D = slope * (E @ self.back)
        first = (self.hidden - D.T @ C) / self.noise[0]
        second = (self.outgoing - E.T @ active) / self.noise[1]
        return torch.cat([first.flatten(), second.flatten()])


def read_together(problem: Problem, pair: LinearPair, tail: Tail, features: Features) -> Features:
    """Features of the whole batch, if an incomplete reading can be completed.

    Parameters
    ----------
    problem : Problem
        The whole model's.
    pair : LinearPair
        Where the tail begins.
    tail : Tail
        What follows the front.
    features : Features
        As the exact attack read them.

    Returns
    -------
    Features
        Complete, none of them certified one by one; or what was given.
    """
    rank = int(features.info.get("rank") or 0)
    stopped = features.info.get("interrupted", False)
    if features.complete or stopped or not 2 <= rank <= LARGEST or pair.activation.kind != "smooth":
        return features
    mixture, basis = mixture_of(problem, pair, rank)
    if mixture is None:
        return features
    for t in random_starts(mixture, problem.generator):
        t, left = solve(mixture, t)
        if left <= EXPLAINED:
            break
    else:
        return features
    C = mixture.coordinates(t)
    values = (C @ basis.T)[:, :-1]
    labels = None
    if tail.complete:
        errors = mixture.errors(C)[0]
        module = tail.module.double()
        outgoing = tail.layer(pair.outgoing)
        labels = read_labels(module, outgoing, values, errors, problem.loss, rank).labels
    return replace(
        features,
        values=values,
        certified=torch.zeros(rank, dtype=torch.bool, device=values.device),
        residual=torch.full((rank,), left, dtype=values.dtype, device=values.device),
        labels=labels,
        complete=True,
        batch_size=rank,
        info=features.info | {"together": left},
    )


def mixture_of(problem: Problem, pair: LinearPair, rank: int) -> tuple[Mixture | None, Tensor]:
    """The equations of a batch of `rank` samples, and Q.

    Parameters
    ----------
    problem : Problem
        Holds model and gradient.
    pair : LinearPair
        That saw the features.
    rank : int
        Number of samples B.

    Returns
    -------
    mixture : Mixture or None
        None if the gradient has no bias of the hidden layer.
    basis : Tensor of shape (F + 1, B), or (F, B) without that bias
        Q.
    """
    rows = row_space(problem, pair, rank)
    Q = rows.basis
    if not rows.biased:
        return None, Q
    first, _ = joined_gradient(problem, pair.hidden)
    second, biased = joined_gradient(problem, pair.outgoing)
    hidden = problem.model.get_submodule(pair.hidden)
    outgoing = problem.model.get_submodule(pair.outgoing)
    assert isinstance(hidden, nn.Linear)
    assert isinstance(outgoing, nn.Linear)
    joined = torch.cat([hidden.weight, hidden.bias[:, None]], 1).detach().double()
    last = Q[-1]
    eps = torch.finfo(problem.gradient[f"{pair.hidden}.weight"].dtype).eps
    return Mixture(
        hidden=first @ Q,
        weight=joined @ Q,
        outgoing=second,
        back=outgoing.weight.detach().double(),
        activation=pair.activation,
        biased=biased,
        origin=last / last.square().sum(),
        directions=torch.linalg.svd(last[None]).Vh[1:],
        noise=(_noise(first, rank, rank, eps), _noise(second, rank, min(second.shape), eps)),
    ), Q


def _noise(gradient: Tensor, rank: int, directions: int, eps: float) -> float:
    """Expected norm of a gradient's noise in some of its directions.

    Where no samples are the spectrum shows it; what rounding did to the errors that were sent back
    lies among the samples, and has to be guessed from the precision.
    """
    S = torch.linalg.svdvals(gradient)
    outside = float(S[rank]) if rank < len(S) else 0.0
    return outside * directions**0.5 + eps * float(S.norm())


def random_starts(mixture: Mixture, generator: torch.Generator) -> list[Tensor]:
    """Free unknowns of mixtures around the strongest direction of the gradient.

    Parameters
    ----------
    mixture : Mixture
        Of B samples.
    generator : torch.Generator
        Source of randomness, on the CPU.

    Returns
    -------
    list of `STARTS` Tensors of shape (B (B - 1),)
    """
    strongest = torch.linalg.svd(mixture.hidden).Vh[0]
    last = mixture.origin / mixture.origin.square().sum()
    mean = strongest / (last @ strongest)
    middle = (mean - mixture.origin) @ mixture.directions.T
    shape = (len(mean), len(middle))
    starts = []
    for k in range(STARTS):
        apart = torch.randn(shape, generator=generator, dtype=torch.float64).to(middle)
        starts.append((middle + SPREADS[k % len(SPREADS)] * mean.norm() * apart).flatten())
    return starts


def solve(mixture: Mixture, t: Tensor) -> tuple[Tensor, float]:
    """Levenberg-Marquardt from one start.

    Parameters
    ----------
    mixture : Mixture
        Of B samples.
    t : Tensor of shape (B (B - 1),)
        Free unknowns to begin with.

    Returns
    -------
    t : Tensor of shape (B (B - 1),)
        Where it ends.
    left : float
        The larger norm of the residual's two parts there, each in units of its noise.
    """
    r = mixture.residual(t)
    low, damping = float(r.square().sum()), 1e-2
    for _ in range(STEPS):
        J = jacfwd(mixture.residual)(t)
        normal, slope, before = J.T @ J, J.T @ r, low
        scale = normal.diagonal().clamp_min(1e-300).diag()
        while damping < 1e6:
            factor, fault = torch.linalg.cholesky_ex(normal + damping * scale)
            step = torch.cholesky_solve(slope[:, None], factor)[:, 0]
            ahead = mixture.residual(t - step) if not int(fault) else r
            if float(ahead.square().sum()) < low:
                t, r, low = t - step, ahead, float(ahead.square().sum())
                damping = max(damping / 10, 1e-12)
                break
            damping *= 5
        if low > 0.999 * before:
            break
    split = mixture.hidden.numel()
    return t, max(float(r[:split].norm()), float(r[split:].norm()))
