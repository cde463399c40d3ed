"""When a residual is small enough to be a proof: noise, uniqueness and conditioning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.tensor.activation import Activation
from attacks.tensor.equation import SampleEquation, State
from attacks.tensor.sharpen import Sharpened, equations_left
from attacks.tensor.subspace import GradientSpace, LayerGradient

LOOSEST = 1e-2
"""Residual above which nothing counts as solved, however large the noise."""
STRICTEST = 1e-5
"""So much is forgiven whatever the noise."""
NOISY = 0.9
"""Largest residual the search accepts in a noisy gradient; a random column has about one."""
TIGHT, LOOSER = 1.3, 1.6
"""Residual accepted under noise, in units of the typical one, and its growth per idle round."""
ROUNDING = 8.0
"""What the rank leaves over counts as rounding up to so many unit roundoffs of the largest."""
WORST_ERROR = 1e-2
"""Relative error within which a certified input is a true sample."""
CLEARLY = 3.0
"""Trace of a second sample, in units of the noise, that is taken for visible."""
STANDARD_ERRORS = 10.0
"""So many of them have to stay within `WORST_ERROR`."""
SPARE = 4
"""Equations that have to be left over for a proof."""
FLOORED = 1e7
"""Residual, in units of the gradient's relative noise floor, above which nothing counts as solved.

It matters for gradients in double precision alone, where `STRICTEST` is no strict bound.
"""
HOPELESS = 1.0
"""Noise bound beyond which the columns of a complete batch are not told apart at all."""
SAME = 1e-4
"""Relative distance below which two returned inputs are one."""


def column_threshold(space: GradientSpace, columns: Tensor) -> Tensor:
    """Largest phi a certificate forgives as noise: 3 `expected_phi`, within [1e-5, 1e-2].

    Parameters
    ----------
    space, columns
        As for `expected_phi`.

    Returns
    -------
    Tensor of shape (n,)
    """
    return (3 * expected_phi(space, columns)).clamp(STRICTEST, LOOSEST)


def acceptance(space: GradientSpace, columns: Tensor, idle: int = 0) -> Tensor:
    """Largest phi at which the search takes a column for a sample's.

    What a certificate would forgive, for gradients as exact as floating point makes them. A noisy
    gradient is read as well as it can be: white noise of largest singular value sigma moves a true
    column by sqrt(m) / (sqrt(m) + sqrt(d)) of `expected_phi`, wrong ones hardly come closer than
    1.3 times that, and where nothing is found any more they have to do.

    Parameters
    ----------
    space, columns
        As for `expected_phi`.
    idle : int, default 0
        Rounds in which the search has found nothing.

    Returns
    -------
    Tensor of shape (n,)
    """
    expected = expected_phi(space, columns)
    if not space.noisy:
        return (3 * expected).clamp(STRICTEST, LOOSEST)
    return (TIGHT * LOOSER**idle * typical_phi(space, columns)).clamp(STRICTEST, NOISY)


def expected_phi(space: GradientSpace, columns: Tensor) -> Tensor:
    """How far the gradient's noise moves a true column out of the column space.

    Noise of size sigma turns the gradient's column space by sigma S^-1, so a true column with
    coordinates q = Q'D leaves it by at most sigma |S^-1 q| / |q| to first order.

    Parameters
    ----------
    space : GradientSpace
        Of the gradient.
    columns : Tensor of shape (n, m)
        Columns D_i, of any scale.

    Returns
    -------
    Tensor of shape (n,)
    """
    q = columns @ space.Q
    size = q.norm(dim=1).clamp_min(1e-300)
    return space.noise * (q / space.S).norm(dim=1) / size


def typical_phi(space: GradientSpace, columns: Tensor) -> Tensor:
    """What `expected_phi`, which holds for the worst direction, is for white noise.

    Parameters
    ----------
    space, columns
        As for `expected_phi`.

    Returns
    -------
    Tensor of shape (n,)
    """
    return expected_phi(space, columns) * _share(space)


def typical_turn(space: GradientSpace) -> Tensor:
    """Angles (B,) by which white noise turns the columns of Q out of the true column space."""
    return (space.noise / space.S * _share(space)).clamp_max(1.0)


def _share(space: GradientSpace) -> float:
    """What noise does to one direction, relative to its largest singular value, if it is white."""
    m, d = len(space.Q), len(space.V)
    return float(m**0.5 / (m**0.5 + d**0.5))


@dataclass(frozen=True)
class Verdict:
    """Per-sample outcome at the returned inputs.

    Attributes
    ----------
    solved : bool Tensor of shape (n,)
        The equation's residual is no larger than noise explains.
    unique : bool Tensor of shape (n,)
        No second error vector solves it as well.
    determined : bool Tensor of shape (n,)
        No input further than `WORST_ERROR` away solves it as well, to first order.
    """

    solved: Tensor
    unique: Tensor
    determined: Tensor

    @property
    def certified(self) -> Tensor:
        """All of it."""
        return self.solved & self.unique & self.determined

    def __and__(self, other: Verdict) -> Verdict:
        """What holds by both verdicts."""
        return Verdict(
            self.solved & other.solved,
            self.unique & other.unique,
            self.determined & other.determined,
        )


def judge(
    space: GradientSpace,
    equation: SampleEquation,
    sharp: Sharpened,
    activation: Activation,
    columns: Tensor,
    error: Tensor,
    exact: bool,
    parallel: bool,
) -> Verdict:
    """Judge returned inputs by the equation evaluated at them.

    A curved activation determines x by itself: ten standard errors have to stay within the error
    that is forgiven, and no two samples may be the same one. While samples are missing the residual
    may be theirs instead of noise, and counts as if all of it pulled x one way. A piecewise linear
    one does not move at all; there x comes from the columns of the *complete* batch, within the
    noise bound `error`. The gates of each x have to make the very column it came from, since one
    wrong column spoils all inputs, and what has to be excluded is that any column stands for a
    mixture of samples with equal gates. Different error vectors would show as a second solution; if
    all point the same way, or do so behind equal gates, the gates must be fine enough to tell
    inputs apart that differ by `WORST_ERROR`.

    Parameters
    ----------
    space : GradientSpace
        Of the gradient.
    equation : SampleEquation
        Over the gradient's whole row space, with biases on.
    sharp : Sharpened
        The returned inputs, the equation's state there with the true activation, and their
        standard errors.
    activation : Activation
        Between the layers.
    columns : Tensor of shape (n, m)
        The columns D_i that were found, of any scale.
    error : Tensor of shape (n,)
        Relative error that noise can have caused; infinite where samples are missing.
    exact : bool
        Whether the gradient's noise is rounding. If not, a curved activation is asked for the noise
        bound as well; if so, only for columns that are told apart at all.
    parallel : bool
        Whether the loss' derivatives by the model's output all point the same way: with one output,
        or two and cross entropy.

    Returns
    -------
    Verdict
        Of all n inputs.
    """
    state, size = sharp.state, space.lengths(sharp.points)
    threshold = column_threshold(space, state.column)
    solved = state.phi <= threshold.clamp_max(FLOORED * space.noise / float(space.S[0]))
    unique = state.runner_up > 10 * torch.maximum(threshold, column_threshold(space, state.rival))
    if activation.kind == "piecewise linear":
        determined = (error <= WORST_ERROR) & unique.all()
        determined &= (angle(columns, state.column) <= 10 * threshold).all()
        if parallel or space.U.shape[1] == 1:
            determined &= gate_flips(space, equation, activation, sharp.points) >= 1
    else:
        unique &= spare_equations(space, equation, sharp) >= SPARE
        # noise spreads over the equations; what a missing sample leaves may all pull one way
        pull = torch.where(error.isfinite(), 1.0, equations_left(equation) ** 0.5)
        determined = STANDARD_ERRORS * pull * sharp.error <= WORST_ERROR * size
        distances = torch.cdist(sharp.points, sharp.points)
        distances.fill_diagonal_(torch.inf)
        determined &= distances.amin(1) > SAME * sharp.points.norm(dim=1)
        limit = HOPELESS if exact else WORST_ERROR
        determined &= ~(error.isfinite() & (error > limit))
    return Verdict(solved, unique, determined)


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Sine of the angle between the rows of two matrices.

    Parameters
    ----------
    a, b : Tensor of shape (n, m)

    Returns
    -------
    Tensor of shape (n,)
    """
    a, b = (v / v.norm(dim=1, keepdim=True).clamp_min(1e-300) for v in (a, b))
    return (a - (a * b).sum(1, keepdim=True) * b).norm(dim=1)


def spare_equations(space: GradientSpace, equation: SampleEquation, sharp: Sharpened) -> Tensor:
    """Equations that are left for a proof once all unknowns are fitted, shape (n,).

    Units count whose slope changes visibly, ten times above the noise in one row, if x moves by
    `WORST_ERROR` in a random direction. All others, where the activation is straight around x, say
    no more than how the error vector is mixed from the samples' own.

    Parameters
    ----------
    space : GradientSpace
        Of the gradient.
    equation : SampleEquation
        Over the gradient's whole row space.
    sharp : Sharpened
        The inputs and the equation's state there.

    Returns
    -------
    int Tensor of shape (n,)
        Negative where there are fewer equations than unknowns.
    """
    state, (B, k, K) = sharp.state, (space.rank, equation.Wn.shape[1], len(equation.Ut))
    move = WORST_ERROR * space.lengths(sharp.points)[:, None] / max(k, 1) ** 0.5
    change = state.tangent.abs() * equation.Wn.norm(dim=1) * move
    visible = 10 * typical_phi(space, state.column) / len(space.Q) ** 0.5
    curved = (change > visible[:, None]).sum(1)
    straight = (len(space.Q) - curved).clamp_max(K)
    return curved + straight - B - k - K + 1


def gate_flips(
    space: GradientSpace, equation: SampleEquation, activation: Activation, points: Tensor
) -> Tensor:
    """Expected number of gates that differ between x and a random input `WORST_ERROR` away.

    Parameters
    ----------
    space : GradientSpace
        Of the gradient.
    equation : SampleEquation
        Holds the first layer's weights (m, k).
    activation : Activation
        With at least one kink.
    points : Tensor of shape (n, k)
        The inputs, in the equation's search space.

    Returns
    -------
    Tensor of shape (n,)
        At most m / 2.
    """
    z = points @ equation.W.T
    distance = (z[..., None] - activation.kinks.to(z)).abs().amin(-1)
    share = space.lengths(points) / points.norm(dim=1).clamp_min(1e-300)  # less the bias
    reach = WORST_ERROR * z.square().mean(1, keepdim=True).sqrt() * share[:, None]
    return (0.5 * torch.erfc(distance / (reach * 2**0.5))).sum(1)


def clean(space: GradientSpace, precision: float) -> bool:
    """Whether what the rank leaves over is no more than floating-point rounding.

    Otherwise it may be noise, or samples: near-copies of the ones found, or more samples than the
    layer can tell apart.

    Parameters
    ----------
    space : GradientSpace
        Of the gradient.
    precision : float
        Unit roundoff of the client's dtype; `LayerGradient.precision`.

    Returns
    -------
    bool
        True for a vanishing gradient.
    """
    return space.rank == 0 or space.noise <= ROUNDING * precision * float(space.S[0])


def explained(space: GradientSpace, gradient_residual: float) -> bool:
    """Whether a reconstructed batch has the observed gradient, to within its noise.

    Parameters
    ----------
    space : GradientSpace
        Of the gradient.
    gradient_residual : float
        Relative Euclidean norm of the difference, from `labels.replay_residual`.

    Returns
    -------
    bool
    """
    return gradient_residual <= space.noise * len(space.Q) ** 0.5 / float(space.S.norm())


def distinct(
    space: GradientSpace,
    layer: LayerGradient,
    state: State,
    activation: Activation,
    samples: Tensor,
    scale: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Which samples cannot be a mixture of several that noise has hidden the rank of.

    Samples at a distance rho = `WORST_ERROR` |x| from x that share its column to first order leave
    a second-order trace |c| |D(x + rho) - D(x)| rho in the gradient, which has to stand clearly
    above the noise.

    Parameters
    ----------
    space, layer : GradientSpace, LayerGradient
        Of the gradient.
    state : State
        At the returned inputs.
    activation : Activation
        Between the layers.
    samples : Tensor of shape (n, d + 1)
        The returned inputs, with the bias' one.
    scale : Tensor of shape (n,)
        Sizes c of their columns.
    generator : torch.Generator
        Draws the directions.

    Returns
    -------
    bool Tensor of shape (n,)
    """
    step = torch.randn(samples.shape, generator=generator, dtype=torch.float64).to(samples)
    if space.last is not None:
        step[:, -1] = 0
    inputs = samples if space.last is None else samples[:, :-1]
    rho = WORST_ERROR * inputs.norm(dim=1, keepdim=True)
    step = step * (rho / step.norm(dim=1, keepdim=True))
    error = state.delta @ space.U.T
    near = activation.slope((samples + step) @ layer.weight.T)[0]
    here = activation.slope(samples @ layer.weight.T)[0]
    trace = scale.abs() * ((near - here) * error).norm(dim=1) * rho[:, 0]
    return trace > CLEARLY * space.noise
