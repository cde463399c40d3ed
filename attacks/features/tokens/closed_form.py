"""From tokens to patches in closed form: every token by itself, with its place in the image.

With all n tokens x_i of a batch known, the gradients of the block are linear systems.

1. dL/dW1~ = D [x, 1] and dL/dW2~ = G [act(W1 x), 1] have the unique solutions D and G: what each
   token sent back at the pair's two layers. Around the pair runs a residual path, so

       dL/dv_i = g_i + s_i h_i,      h_i = (1 - 11'/d - z_i z_i'/d) gain * (W1' D_i),

   with one unknown per token, the scale s_i = 1 / std(v_i) that the norm has taken.
2. The mixing layer's bias saw the sum of all of them: dL/db = sum_i dL/dv_i, d equations for the n
   scales. (Without a bias its weight's column space, which holds every dL/dv_i, gives each s_i.)
3. Its weight saw dL/dW = sum_i dL/dv_i a_i', which is solved for its inputs a_i, exactly the result
   of the attention, whatever attention did.
4. So the embedding is known, u_i = z_i / s_i - W a_i - b up to its mean, and it is affine in the
   pixels of a patch: d - 1 equations for the patch's pixels hold at the true position only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable, Problem
from attacks.features.reading import joined_gradient
from attacks.features.tokens.block import TokenBlock
from attacks.tensor.layers import LinearPair

CUT = 1e-7
"""Relative size of singular values of the tokens below which they are noise."""


@dataclass(frozen=True)
class Patches:
    """What the closed form says about n tokens.

    Attributes
    ----------
    mixed : Tensor of shape (n, a)
        Input a_i of the mixing layer.
    position : int64 Tensor of shape (n,)
        Where in the image a token stands.
    pixels : Tensor of shape (n, pixels)
        Images that are zero but for the token's own patch.
    misfit : Tensor of shape (n,)
        What is left of d - 1 equations at that position, relative.
    second : Tensor of shape (n,)
        The least that is left at any other position.
    """

    mixed: Tensor
    position: Tensor
    pixels: Tensor
    misfit: Tensor
    second: Tensor


def solve_patches(problem: Problem, pair: LinearPair, block: TokenBlock, tokens: Tensor) -> Patches:
    """Patches and positions of a complete batch's tokens.

    Parameters
    ----------
    problem : Problem
        Holds the gradient.
    pair : LinearPair
        That saw the tokens.
    block : TokenBlock
        Around it.
    tokens : Tensor of shape (n, d)
        All of the batch, float64.

    Returns
    -------
    Patches
        Of the n tokens, in their order.

    Raises
    ------
    NotApplicable
        If a patch has as many pixels as a token has dimensions, or a gradient is missing.
    """
    positions, width = block.constant.shape
    room = width - int(block.norm.centred)
    largest = max(len(block.pixels(t)) for t in range(positions))
    if largest >= room:
        raise NotApplicable(
            f"A patch of {largest} pixels leaves no equation of a token's {width} to tell its "
            "position and its mixing by."
        )
    if f"{block.project}.weight" not in problem.gradient:
        raise NotApplicable(f"The gradient of {block.project!r} is needed and not there.")
    z = block.norm.undo(tokens)
    back, around = _errors(problem, pair, block, tokens, z)
    scale = _scales(problem, block, back, around)
    sent = around + scale[:, None] * back
    layer = problem.model.get_submodule(block.project)
    assert isinstance(layer, nn.Linear)
    gradient = problem.gradient[f"{block.project}.weight"].double()
    mixed = torch.linalg.pinv(sent.T, rtol=CUT) @ gradient
    bias = 0.0 if layer.bias is None else layer.bias.detach().double()
    added = mixed @ layer.weight.detach().double().T + bias
    embedded = block.norm.centre(z / scale[:, None] - added)
    return _placed(block, embedded, mixed)


def _errors(
    problem: Problem, pair: LinearPair, block: TokenBlock, tokens: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    """h_i and g_i: what comes back through the norm, up to its scale, and around it."""
    hidden = problem.model.get_submodule(pair.hidden)
    assert isinstance(hidden, nn.Linear)
    weight = hidden.weight.detach().double()
    bias = 0.0 if hidden.bias is None else hidden.bias.detach().double()
    active = pair.activation.function(tokens @ weight.T + bias)
    returned = [
        _unmixed(problem, pair.hidden, tokens) @ weight,
        _unmixed(problem, pair.outgoing, active),
    ]
    return block.norm.back(z, returned[0]), returned[1]


def _unmixed(problem: Problem, layer: str, seen: Tensor) -> Tensor:
    """Each token's error at a linear layer's output, from what the layer saw, (n, outputs)."""
    gradient, biased = joined_gradient(problem, layer)
    if biased:
        seen = torch.cat([seen, torch.ones_like(seen[:, :1])], 1)
    return (gradient @ torch.linalg.pinv(seen, rtol=CUT)).T


def _scales(problem: Problem, block: TokenBlock, back: Tensor, around: Tensor) -> Tensor:
    """s_i of every token."""
    bias = problem.gradient.get(f"{block.project}.bias")
    if bias is not None:
        missing = bias.double() - around.sum(0)
        scale: Tensor = torch.linalg.pinv(back.T) @ missing
    else:
        gradient = problem.gradient[f"{block.project}.weight"].double()
        outside = torch.linalg.svd(gradient).U[:, len(back) :]
        moved, fixed = back @ outside, around @ outside
        scale = -(moved * fixed).sum(1) / moved.square().sum(1).clamp_min(1e-300)
    return scale.abs().clamp_min(1e-12)


def _placed(block: TokenBlock, embedded: Tensor, mixed: Tensor) -> Patches:
    """Every token at the position whose patches explain it best."""
    positions = len(block.constant)
    misfits, guesses = [], []
    for t in range(positions):
        pixels = block.pixels(t)
        slopes = block.norm.centre(block.slopes[pixels, t])  # (p, d)
        target = embedded - block.norm.centre(block.constant[t])
        patch = target @ torch.linalg.pinv(slopes)
        left = (target - patch @ slopes).norm(dim=1) / embedded.norm(dim=1).clamp_min(1e-300)
        image = embedded.new_zeros(len(embedded), len(block.slopes))
        image[:, pixels] = patch
        misfits.append(left)
        guesses.append(image)
    misfit = torch.stack(misfits, 1)  # (n, T)
    # where rounding has merged tokens there are fewer than B at some positions
    complete = len(embedded) % positions == 0
    position = assign(misfit, len(embedded) // positions) if complete else misfit.argmin(1)
    rows = torch.arange(len(embedded), device=embedded.device)
    other = misfit.clone()
    other[rows, position] = torch.inf
    return Patches(
        mixed=mixed,
        position=position,
        pixels=torch.stack(guesses, 1)[rows, position],
        misfit=misfit[rows, position],
        second=other.amin(1),
    )


def assign(cost: Tensor, capacity: int) -> Tensor:
    """Column of every row, cheapest first, each column at most `capacity` times.

    Parameters
    ----------
    cost : Tensor of shape (n, k)
        With n <= k * capacity.
    capacity : int
        Rows a column takes.

    Returns
    -------
    int64 Tensor of shape (n,)
    """
    n, k = cost.shape
    chosen = [-1] * n
    room = [capacity] * k
    for flat in cost.flatten().argsort().tolist():
        row, column = divmod(flat, k)
        if chosen[row] < 0 and room[column] > 0:
            chosen[row] = column
            room[column] -= 1
    return torch.tensor(chosen, device=cost.device)
