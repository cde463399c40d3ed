"""Which patches belong to one image: the mixture that attention made of them tells.

The input a of the mixing layer at one position, the anchor, depends on all patches of its image.
With B patches known for every position, an image is a choice among them. What exchanging one patch
of a chosen image does to a is found by trying; the effects nearly add up, so least squares

    sum over exchanges z_e (a(image after e) - a(image)) = (the anchor's known a) - a(image)

says which exchanges to make, z about one, until none is left to make; then single exchanges are
made for as long as they help. B images have B anchors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.features.front import Front
from attacks.features.tokens.closed_form import Patches

ROUNDS = 8
MET = 1e-2
"""Relative distance from the anchor's mixture at which no other start is tried."""


def group(patches: Patches, mixing: Front, shape: tuple[int, ...], images: int) -> Tensor | None:
    """Images made of the patches.

    Parameters
    ----------
    patches : Patches
        Of all tokens.
    mixing : Front
        From images (B, *shape) to the mixing layer's inputs (B, T, a).
    shape : tuple of int
        Of one image.
    images : int
        Number of images B.

    Returns
    -------
    Tensor of shape (B, pixels) or None
        None if no position has a token of every image, or one has none.
    """
    positions = int(patches.position.max()) + 1
    there = [(patches.position == t).nonzero().flatten() for t in range(positions)]
    counts = torch.tensor([len(tokens) for tokens in there])
    whole = (counts == images).nonzero().flatten().tolist()
    if not whole or not counts.all():
        return None
    # tokens that rounding has merged belong to several images: the copies fill the table
    choices = torch.stack([tokens[torch.arange(images) % len(tokens)] for tokens in there])
    candidates = patches.pixels[choices].to(mixing.dtype)  # (T, B, pixels)
    empty = candidates.abs().amax((1, 2)) == 0  # a class token shows no pixels
    anchor = next((t for t in whole if empty[t]), whole[0])
    everywhere = torch.arange(positions, device=candidates.device)
    made = []
    for own in range(images):
        target = patches.mixed[choices[anchor, own]].to(mixing.dtype)
        chosen = _choose(_Anchor(candidates, target, mixing, shape, anchor, own))
        made.append(candidates[everywhere, chosen].sum(0))
    return torch.stack(made)


@dataclass(frozen=True)
class _Anchor:
    """The mixture seen at one position, as a function of chosen patches.

    Attributes
    ----------
    candidates : Tensor of shape (T, B, pixels)
    target : Tensor of shape (a,)
        What the mixture should be.
    mixing : Front
    shape : tuple of int
    position, own : int
        The anchor's position, and which of the candidates there is its own.
    """

    candidates: Tensor
    target: Tensor
    mixing: Front
    shape: tuple[int, ...]
    position: int
    own: int

    def gaps(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """What is missing at a choice (T,), and after every single exchange, (T, B, a)."""
        everywhere = torch.arange(len(chosen), device=chosen.device)
        present = self.candidates[everywhere, chosen]
        exchanged = present.sum(0) - present[:, None] + self.candidates
        batch = torch.cat([present.sum(0)[None], exchanged.flatten(0, 1)])
        with torch.no_grad():
            seen = torch.cat(
                [
                    self.mixing(part.reshape(-1, *self.shape))[:, self.position]
                    for part in batch.split(64)
                ]
            )
        gap = (self.target - seen).double()
        return gap[0], gap[1:].reshape(*self.candidates.shape[:2], -1)

    def free(self, gap: Tensor, after: Tensor) -> Tensor:
        """Exchanges that change anything, (T, B)."""
        free = (after - gap).norm(dim=2) > 1e-3 * gap.norm() / len(after)
        free[self.position] = False
        return free


def _choose(anchor: _Anchor) -> Tensor:
    """Which of the candidates make the image of an anchor, (T,)."""
    positions, images = anchor.candidates.shape[:2]
    size = anchor.target.norm()
    best, lowest = None, float("inf")
    for start in range(images):
        chosen = torch.full((positions,), start, device=anchor.target.device)
        chosen[anchor.position] = anchor.own
        chosen, missing = _exchange_one(anchor, _exchange_many(anchor, chosen))
        if best is None or missing < lowest:
            best, lowest = chosen, missing
        if lowest < MET * float(size):
            break
    assert best is not None
    return best


def _exchange_many(anchor: _Anchor, chosen: Tensor) -> Tensor:
    """Exchanges that least squares proposes, until it proposes none."""
    everywhere = torch.arange(len(chosen), device=chosen.device)
    for _ in range(ROUNDS):
        gap, after = anchor.gaps(chosen)
        free = anchor.free(gap, after)
        weights = torch.zeros_like(after[..., 0])
        if free.any():
            effects = (gap - after)[free].T
            weights[free] = torch.linalg.pinv(effects, rtol=1e-4) @ gap
        weights[everywhere, chosen] = 1 - weights.sum(1)
        following = weights.argmax(1)
        if torch.equal(following, chosen):
            break
        chosen = following
    return chosen


def _exchange_one(anchor: _Anchor, chosen: Tensor) -> tuple[Tensor, float]:
    """The best single exchange, for as long as it helps; the choice and what it misses."""
    chosen = chosen.clone()
    while True:
        gap, after = anchor.gaps(chosen)
        missing = torch.where(anchor.free(gap, after), after.norm(dim=2), torch.inf)
        t, b = divmod(int(missing.argmin()), missing.shape[1])
        if not float(missing[t, b]) < 0.999 * float(gap.norm()):
            return chosen, float(gap.norm())
        chosen[t] = b
