"""All images of a batch at once, where the features alone are too few for the pixels.

With the errors d_i = dL/dphi_i that each sample sent back known exactly, the gradient of every
parameter theta of the front is an explicit function of the images, without a trace of the tail:

    g_theta(x) = d/dtheta sum_i <front_theta(x_i), d_i>.

Together with the features that is B F + |theta| equations for B n pixels. They are badly
conditioned: Levenberg-Marquardt on the whole batch in float64 solves them where first-order methods
do not move. They hold only for a complete batch, and only smooth fronts are solved: across a kink
the gradient rows jump.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

from attacks.base import Problem
from attacks.features.front import Front
from attacks.features.newton import Solved, Span, conditioning, jacobian
from attacks.features.reading import joined_gradient
from attacks.tensor.layers import LinearPair

CHUNK = 112
LARGEST = 4096
"""Most pixels of a whole batch: the normal matrix has their square of entries."""


@dataclass(frozen=True)
class JointEquations:
    """Features and front gradient of a complete batch.

    With `coupled`, nothing that the exact attack returned is taken for true but the row space of
    the layer's gradient G~ = R V': the features of an image have to lie in it, and the errors
    follow from the images themselves, D = R C^-1 with C = [front(x), 1] V.

    Attributes
    ----------
    front : Front
        In float64.
    parameters : dict from name to Tensor
        Of the front.
    shape : tuple of int
        Of one image.
    features : Tensor of shape (N, F)
        Of every sample, float64.
    rows : Span
        Row space of the layer's gradient, of dimension N.
    back : Tensor of shape (F, N)
        W'R: what the layer's gradient is in the coordinates of the row space, sent back.
    gradient : dict from name to Tensor
        Observed, of the front's parameters, float64.
    coupled : bool
        See above; otherwise the features are taken for true.
    """

    front: Front
    parameters: dict[str, Tensor]
    shape: tuple[int, ...]
    features: Tensor
    rows: Span
    back: Tensor
    gradient: dict[str, Tensor]
    coupled: bool = False

    @property
    def spare(self) -> int:
        """Number of equations minus number of unknowns."""
        count, pixels = len(self.features), torch.Size(self.shape).numel()
        each = len(self.rows.basis) - count if self.coupled else self.features.shape[1]
        return count * (each - pixels) + self.size_of_gradient

    @property
    def size_of_gradient(self) -> int:
        """Number of the front's parameters."""
        return sum(g.numel() for g in self.gradient.values())

    @property
    def size(self) -> Tensor:
        """Root mean square norm of a feature vector, the unit of the first residuals."""
        return self.features.square().sum(1).mean().sqrt()

    def errors(self, features: Tensor) -> Tensor:
        """d_i = W' D_i that go with the features (N, F) of a complete batch, (N, F)."""
        C = self.rows.joined(features.T, 1.0).T @ self.rows.basis
        return torch.linalg.solve(C.T, self.back.T)  # (W'R C^-1)'

    def gradient_rows(self, x: Tensor, d: Tensor) -> Tensor:
        """g_theta for some images and errors, each parameter in units of what was observed.

        Parameters
        ----------
        x : Tensor of shape (k, n)
            Images, float64.
        d : Tensor of shape (k, F)
            Errors of their features.

        Returns
        -------
        Tensor of shape (G,)
            Summed over the images, all parameters in one vector, each over its observed norm.
        """

        def paired(parameters: dict[str, Tensor]) -> Tensor:
            seen = self.front(x.reshape(-1, *self.shape), parameters).flatten(1)
            return (seen * d).sum()

        slopes = grad(paired)(self.parameters)
        return torch.cat([(slopes[k] / self._unit(k)).flatten() for k in self.gradient])

    def residual(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Feature rows (N, F) or (N, F + 1) and gradient rows (G,) at images (N, n)."""
        with torch.no_grad():
            seen = self.front(x.reshape(-1, *self.shape)).flatten(1)
        observed = torch.cat([(g / self._unit(k)).flatten() for k, g in self.gradient.items()])
        d = self.errors(seen if self.coupled else self.features)
        if self.coupled:
            gap = self.rows.outside(self.rows.joined(seen.T, 1.0)).T
        else:
            gap = seen - self.features
        return gap / self.size, self.gradient_rows(x, d) - observed

    def normal_equations(self, x: Tensor, residual: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """J'J and J'r at the images of a complete batch.

        Parameters
        ----------
        x : Tensor of shape (N, n)
            Images, float64.
        residual : pair of Tensors
            What `residual` returns for them.

        Returns
        -------
        normal : Tensor of shape (N n, N n)
            J'J.
        slope : Tensor of shape (N n,)
            J'r.
        """
        pixels = x.shape[1]
        slopes = [jacobian(self.front, image, self.shape) for image in x]  # (F, n) each
        rows = self._gradient_jacobian(x, slopes)
        normal, slope = rows.T @ rows, rows.T @ residual[1]
        for i, own in enumerate(slopes):
            if self.coupled:
                own = self.rows.outside(self.rows.joined(own, 0.0))
            block = own / self.size
            part = slice(i * pixels, (i + 1) * pixels)
            normal[part, part] += block.T @ block
            slope[part] += block.T @ residual[0][i]
        return normal, slope

    def _gradient_jacobian(self, x: Tensor, slopes: list[Tensor]) -> Tensor:
        """Derivative of the gradient rows by all pixels, (G, N n).

        Coupled, a change of one image's features changes everybody's errors:
        C -> C + e_i c' makes D_j -> D_j - D_i (c' C^-1)_j.
        """
        with torch.no_grad():
            seen = self.front(x.reshape(-1, *self.shape)).flatten(1)
        d = self.errors(seen if self.coupled else self.features)
        C = self.rows.joined(seen.T, 1.0).T @ self.rows.basis
        columns = []
        for i, own in enumerate(slopes):
            direct = self._own_jacobian(x[i], d[i])
            if self.coupled:
                crossed = [self.gradient_rows(x[j : j + 1], d[i : i + 1]) for j in range(len(x))]
                moved = self.rows.basis.T @ self.rows.joined(own, 0.0)  # (N, n): columns c
                direct = direct - torch.stack(crossed, 1) @ torch.linalg.solve(C.T, moved)
            columns.append(direct)
        return torch.cat(columns, 1)

    def _own_jacobian(self, image: Tensor, d: Tensor) -> Tensor:
        """Derivative of one image's gradient rows at fixed errors, (G, n)."""

        def rows(v: Tensor) -> Tensor:
            return self.gradient_rows(v[None], d[None])

        def column(tangent: Tensor) -> Tensor:
            return jvp(rows, (image,), (tangent,))[1]

        directions = torch.eye(len(image), dtype=image.dtype, device=image.device).split(CHUNK)
        return torch.cat([vmap(column)(part) for part in directions]).T

    def _unit(self, name: str) -> Tensor:
        return self.gradient[name].norm().clamp_min(1e-300)


@dataclass
class Joint:
    """State of the joint solution; filled in place so that an interruption loses nothing.

    Attributes
    ----------
    x : Tensor of shape (N, n)
    residual : float
        Root mean square of the residuals' two parts.
    steps : int
        Levenberg-Marquardt steps that were accepted.
    weakest : float
        Lower bound of the smallest singular value of the Jacobian at the last step.
    error : float
        Root mean square relative error of x that noise can have caused, as the residual shows it.
    """

    x: Tensor
    residual: float = float("inf")
    steps: int = 0
    weakest: float = 0.0
    error: float = float("inf")

    def of(self, i: int, spare: int) -> Solved:
        """The state as that of one of the images.

        Parameters
        ----------
        i : int
            Which image.
        spare : int
            Equations minus unknowns of the whole batch.

        Returns
        -------
        Solved
            With the image's pixels; everything else is the batch's.
        """
        return Solved(self.x[i], self.residual, spare, self.weakest, self.error)


def joint_equations(
    problem: Problem, pair: LinearPair, shape: tuple[int, ...], features: Tensor, rows: Span
) -> JointEquations | None:
    """The equations of a complete batch; None if there are too many unknowns or too few equations.

    Parameters
    ----------
    problem : Problem
        Holds the gradient.
    pair : LinearPair
        Behind the front.
    shape : tuple of int
        Of one image.
    features : Tensor of shape (N, F)
        Of every sample of the batch, float64.
    rows : Span
        Row space of the hidden layer's gradient, of dimension N.

    Returns
    -------
    JointEquations or None
        Coupled; None if they do not outnumber the pixels, or the pixels exceed `LARGEST`.
    """
    front = Front(problem.model, pair.hidden, torch.float64)
    parameters = front.parameters(shape)
    layer = problem.model.get_submodule(pair.hidden)
    assert isinstance(layer, nn.Linear)
    gradient, _ = joined_gradient(problem, pair.hidden)
    observed = {k: problem.gradient[k].double() for k in parameters if k in problem.gradient}
    equations = JointEquations(
        front=front,
        parameters={k: parameters[k] for k in observed},
        shape=shape,
        features=features,
        rows=rows,
        back=layer.weight.detach().double().T @ (gradient @ rows.basis),
        gradient=observed,
        coupled=True,
    )
    pixels = len(features) * torch.Size(shape).numel()
    return equations if equations.spare > 0 and pixels <= LARGEST else None


def solve_jointly(equations: JointEquations, joint: Joint, steps: int, damping: float) -> None:
    """Levenberg-Marquardt on all equations of a batch.

    Parameters
    ----------
    equations : JointEquations
        Of the batch.
    joint : Joint
        Where to start; changed in place.
    steps : int
        Most Jacobians to make.
    damping : float
        To begin with, in units of the mean squared entry of J's columns.
    """
    if steps < 1:
        return
    x = joint.x
    eye = torch.eye(x.numel(), dtype=x.dtype, device=x.device)
    r = equations.residual(x)
    low = _cost(r)
    normal = eye
    for _ in range(steps):
        normal, slope = equations.normal_equations(x, r)
        unit, before = float(normal.diagonal().mean()), low
        while damping < 1e3:
            factor, fault = torch.linalg.cholesky_ex(normal + (damping + 1e-13) * unit * eye)
            step = torch.cholesky_solve(slope[:, None], factor)[:, 0].reshape(x.shape)
            ahead = equations.residual(x - step) if not int(fault) else r
            if _cost(ahead) < low:
                x, r, low = x - step, ahead, _cost(ahead)
                damping = max(damping / 10, 1e-13)
                break
            damping *= 5
        joint.x, joint.residual = x, low**0.5
        joint.steps += int(low < before)
        if low > 0.9 * before:
            break
    joint.weakest, spread = conditioning(normal, 1e-10)
    joint.error = (low / equations.spare) ** 0.5 * spread / float(x.norm())


def _cost(residual: tuple[Tensor, Tensor]) -> float:
    return float(residual[0].square().sum() + residual[1].square().sum())
