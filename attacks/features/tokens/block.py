"""What stands between an image and the tokens a pair of layers sees, found by probing.

A pre-norm transformer block hands its pair  x_hat = norm(v),  v = u + c,  with u the embedded
image (affine in the pixels: patches, positions, a class token) and c what a linear layer made of
everybody's tokens; behind the pair its output is added to v again. None of this is recognised by
name. The model is run on random images, and a module or a layer plays a part if its numbers do:
`norm` because it standardises the rows it is given, the mixing layer because v without its output
is affine in the image, the sum behind the pair because the derivatives by v and by the pair's
output differ by what came back through the norm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable
from attacks.features.front import Front
from attacks.matching.client import private_model
from attacks.tensor.layers import LinearPair

LARGE = 1e4
"""Size of a probe that makes the small constant under a norm's root vanish."""
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Normalisation:
    """norm(v) = gain * z + offset with z = s (v - mean v) or, if not centred, z = s v.

    Attributes
    ----------
    gain, offset : Tensor of shape (d,)
    centred : bool
        Whether the mean is lost, too.
    """

    gain: Tensor
    offset: Tensor
    centred: bool

    def undo(self, tokens: Tensor) -> Tensor:
        """The z of normalised tokens, (n, d): v up to its scale and, if centred, its mean."""
        return (tokens - self.offset) / self.gain

    def centre(self, rows: Tensor) -> Tensor:
        """Rows without what the norm does not see."""
        return rows - rows.mean(-1, keepdim=True) if self.centred else rows

    def back(self, z: Tensor, errors: Tensor) -> Tensor:
        """dL/dv / s from dL/d norm(v): (1 - 11'/d - zz'/d) gain * error, s still unknown.

        Parameters
        ----------
        z : Tensor of shape (..., d)
            As `undo` returns it.
        errors : Tensor of shape (..., d)
            dL/d norm(v).

        Returns
        -------
        Tensor of shape (..., d)
            Without the term 11'/d if the norm does not centre.
        """
        pulled = self.centre(self.gain * errors)
        return pulled - z * (z * pulled).mean(-1, keepdim=True)


@dataclass(frozen=True)
class TokenBlock:
    """A normalised residual block over the tokens of an image.

    Attributes
    ----------
    norm : Normalisation
        In front of the pair.
    project : str
        Linear layer whose output is added to the embedded image.
    constant : Tensor of shape (T, d)
        Embedding of the zero image.
    slopes : Tensor of shape (n, T, d)
        Its derivative by the n pixels.
    """

    norm: Normalisation
    project: str
    constant: Tensor
    slopes: Tensor

    def pixels(self, position: int) -> Tensor:
        """Indices of the pixels that a position's embedding shows."""
        return self.slopes[:, position].any(1).nonzero().flatten()


@dataclass(frozen=True)
class _Run:
    """Inputs and outputs of every module in one forward pass, in the order of their ends."""

    calls: list[tuple[str, Tensor, Tensor]]
    output: Tensor

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        return next((seen, made) for called, seen, made in self.calls if called == name)


def find_block(model: nn.Module, pair: LinearPair, shape: tuple[int, ...]) -> TokenBlock:
    """The block around a pair of layers.

    Parameters
    ----------
    model : nn.Module
        Any; not changed.
    pair : LinearPair
        Sees (B, T, d).
    shape : tuple of int
        Of one image.

    Returns
    -------
    TokenBlock
        In float64.

    Raises
    ------
    NotApplicable
        If there is none of this kind; the message says what does not fit.
    """
    private = private_model(model, torch.float64).eval().requires_grad_(False)
    device = next(private.parameters()).device
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, *shape, dtype=torch.float64, generator=generator).to(device)
    images[2] = images[:2].mean(0)
    run = _recorded(private, images.requires_grad_(True))
    tokens, _ = run.of(pair.hidden)
    place = next(
        (
            (name, seen)
            for name, seen, made in reversed(run.calls)
            if made.shape == tokens.shape == seen.shape
            and torch.equal(made, tokens)
            and not torch.equal(seen, made)
        ),
        None,
    )
    if place is None:
        raise NotApplicable(f"No module in front of {pair.hidden!r} normalises its tokens.")
    norm_name, v = place
    norm = _normalisation(private.get_submodule(norm_name), v.shape[-1], device)
    if norm is None:
        raise NotApplicable(f"{norm_name!r} in front of {pair.hidden!r} standardises no tokens.")
    project = _mixing_layer(private, run, v)
    if project is None:
        raise NotApplicable(
            f"What {norm_name!r} sees is no sum of an affine embedding and a linear layer's output."
        )
    if not _adds_up(run, pair, norm, v, project):
        raise NotApplicable(f"The output of {pair.outgoing!r} is not added to its tokens.")
    constant, slopes = _embedding(private, norm_name, project, shape)
    return TokenBlock(norm, project, constant, slopes)


def _recorded(model: nn.Module, images: Tensor) -> _Run:
    calls: list[tuple[str, Tensor, Tensor]] = []
    names = {module: name for name, module in model.named_modules()}

    def record(module: nn.Module, args: tuple, output: object) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            calls.append((names[module], args[0], output))

    handles = [m.register_forward_hook(record) for m in model.modules()]
    try:
        with torch.enable_grad():
            output = model(images)
    finally:
        for handle in handles:
            handle.remove()
    return _Run(calls, output)


def _normalisation(module: nn.Module, width: int, device: torch.device) -> Normalisation | None:
    """The module as a normalisation, if that is what it does to rows."""
    rows = torch.randn(4, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows = LARGE * rows.to(device)
    with torch.no_grad():
        offset = module(torch.zeros_like(rows[:1]))[0]
        seen = module(rows) - offset
    for centred in (True, False):
        z = rows - rows.mean(1, keepdim=True) if centred else rows
        z = z / z.square().mean(1, keepdim=True).sqrt()
        gain = (seen * z).sum(0) / z.square().sum(0)
        if torch.allclose(gain * z, seen, rtol=1e-5, atol=TOLERANCE) and gain.abs().min() > 1e-6:
            return Normalisation(gain, offset, centred)
    return None


def _mixing_layer(model: nn.Module, run: _Run, v: Tensor) -> str | None:
    """The linear layer without whose output v is affine in the image."""
    size = float(v.detach().abs().max())
    for name, _, made in run.calls:
        if isinstance(model.get_submodule(name), nn.Linear) and made.shape == v.shape:
            u = (v - made).detach()
            if float((u[2] - u[:2].mean(0)).abs().max()) < TOLERANCE * size:
                return name
    return None


def _adds_up(run: _Run, pair: LinearPair, norm: Normalisation, v: Tensor, project: str) -> bool:
    """Whether dL/dv = dL/d(pair's output) + what comes back through the norm = dL/d(mixed)."""
    tokens, (_, out), (_, mixed) = run.of(pair.hidden)[0], run.of(pair.outgoing), run.of(project)
    if out.shape != v.shape:
        return False
    weights = torch.linspace(1, 2, run.output.numel(), dtype=v.dtype, device=v.device)
    by = torch.autograd.grad(
        (run.output.flatten() * weights).sum(), [v, out, tokens, mixed], allow_unused=True
    )
    if any(slope is None for slope in by):
        return False
    by_v, by_out, by_tokens, by_mixed = (slope.detach() for slope in by)
    through = norm.back(norm.undo(tokens.detach()), by_tokens)
    spread = norm.centre(v.detach())
    scale = (norm.undo(tokens.detach()) * spread).sum(-1) / spread.square().sum(-1)
    size = float(by_v.abs().max())
    gaps = (by_v - by_out - scale[..., None] * through, by_v - by_mixed)
    return all(float(gap.abs().max()) < 1e-5 * size for gap in gaps)


def _embedding(
    model: nn.Module, norm: str, project: str, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Constant and slopes of the affine map from an image to v with nothing mixed in."""
    like = next(model.parameters())
    pixels = torch.Size(shape).numel()
    front = Front(model, norm, like.dtype)
    layer = model.get_submodule(project)
    mute = {f"{project}.{n}": torch.zeros_like(p) for n, p in layer.named_parameters()}
    with torch.no_grad():
        constant = front(like.new_zeros(1, *shape), mute)[0]
        units = torch.eye(pixels, dtype=like.dtype, device=like.device).reshape(-1, *shape)
        slopes = torch.cat([front(part, mute) for part in units.split(112)]) - constant
    slopes[slopes.abs() < 1e-9 * slopes.abs().max()] = 0.0  # rounding is not support
    return constant, slopes
