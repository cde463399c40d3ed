"""Where the search begins: random points shaped like the data, and tensor candidates."""

from __future__ import annotations

import torch
from torch import Tensor


def random_starts(
    count: int,
    spectrum: Tensor,
    last: Tensor | None,
    norm: float,
    generator: torch.Generator,
) -> Tensor:
    """Random points of the search space with the spectrum of the data.

    Parameters
    ----------
    count : int
        How many.
    spectrum : Tensor of shape (k,)
        Singular values of what is left of the gradient, in the coordinates of the search space.
    last : Tensor of shape (k,), optional
        The points satisfy ``last @ x == 1``.
    norm : float
        Their typical Euclidean norm.
    generator : torch.Generator
        Source of randomness, on the CPU.

    Returns
    -------
    Tensor of shape (count, k)
    """
    draws = torch.randn(count, len(spectrum), generator=generator, dtype=torch.float64)
    return place(draws.to(spectrum) * spectrum, last, norm, generator)


def tensor_starts(
    count: int,
    slices: Tensor,
    spectrum: Tensor,
    last: Tensor | None,
    norm: float,
    generator: torch.Generator,
) -> Tensor:
    """Common factors of moment slices, by simultaneous diagonalisation of random pairs.

    Two mixtures M1, M2 of slices T_k = X' diag(t_k) X share X: the eigenvectors of M1 M2^-1 are its
    columns (Jennrich's algorithm). Slices this noisy do not reward a polish by alternating least
    squares; several pairs give several independent guesses instead.

    Parameters
    ----------
    count : int
        How many points, at least.
    slices : Tensor of shape (K, k, k)
        From `moments.moment_slices`, K at least 2.
    spectrum, last, norm, generator
        As for `random_starts`.

    Returns
    -------
    Tensor of shape (count, k)
        Candidates for samples; complex pairs give their common real part once.
    """
    scale = spectrum.clamp_min(1e-12 * float(spectrum[0])).sqrt()
    level = slices / (scale[:, None] * scale)
    guesses: list[Tensor] = []
    while sum(map(len, guesses)) < count:
        mix = torch.randn(2, len(slices), generator=generator, dtype=torch.float64)
        first, second = torch.einsum("uk,kab->uab", mix.to(level), level)
        values, vectors = torch.linalg.eig(torch.linalg.solve(second, first.T).T)
        kept = vectors[:, values.imag >= 0].real
        guesses.append((scale[:, None] * kept).T)
    return place(torch.cat(guesses)[:count], last, norm, generator)


def place(
    directions: Tensor, last: Tensor | None, norm: float, generator: torch.Generator
) -> Tensor:
    """Scale directions to plausible samples.

    With a bias the last coordinate fixes scale and sign; where that would make a sample larger
    than 1.3 times the typical norm, and than up to three times the least norm there is, it is
    shortened and moved back to ``last @ x == 1``. Without one the norm is drawn within a factor of
    four around the typical one.

    Parameters
    ----------
    directions : Tensor of shape (n, k)
        Of any length.
    last, norm, generator
        As for `random_starts`.

    Returns
    -------
    Tensor of shape (n, k)
    """
    if last is None:
        draws = torch.rand(len(directions), 1, generator=generator, dtype=torch.float64)
        factor = 4 ** (2 * draws - 1)
        unit = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-300)
        return unit * norm * factor.to(unit)
    along = directions @ last
    along = torch.where(along.abs() < 1e-12, torch.full_like(along, 1e-12), along)
    X = directions / along[:, None]
    draws = torch.rand(len(X), 1, generator=generator, dtype=torch.float64)
    longest = (3 ** draws.to(X) / last.norm()).clamp_min(1.3 * norm)
    X = X * (longest / X.norm(dim=1, keepdim=True)).clamp_max(1)
    return X + (1 - X @ last)[:, None] * last / (last @ last)


def along_line(weight: Tensor, last: Tensor, kinks: Tensor) -> Tensor:
    """One point per gate pattern where two samples are left: they lie on a line.

    Parameters
    ----------
    weight : Tensor of shape (m, 2)
        First layer's weights in the coordinates of the search space.
    last : Tensor of shape (2,)
        The points satisfy ``last @ x == 1``.
    kinks : Tensor of shape (k,)
        Where the activation's slope jumps.

    Returns
    -------
    Tensor of shape (n, 2)
        In the middle between every two neighbouring points of the line at which a unit passes a
        kink, n at most m k + 1.
    """
    foot = last / (last @ last)
    direction = torch.stack([-last[1], last[0]]) / last.norm()
    crossings = (kinks.to(weight) - (weight @ foot)[:, None]) / (weight @ direction)[:, None]
    places = crossings[crossings.isfinite()].sort().values
    reach = places.abs().median().expand(1)
    ends = torch.cat([places[:1] - reach, places, places[-1:] + reach])
    middle = (ends[1:] + ends[:-1]) / 2
    return foot + middle[:, None] * direction
