"""Vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929), small, pre-norm, class token.

Attention is written out as softmax(Q K' / sqrt(d)) V: fused kernels have no second derivative,
which attacks that differentiate a gradient need.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fl_sim.models.activations import make_activation
from fl_sim.models.initialize import initialize
from fl_sim.models.layers import head, positive

POSITION_STD = 0.02


class Attention(nn.Module):
    """Multi-head self-attention.

    Parameters
    ----------
    dim : int
        Size of a token.
    heads : int
        A divisor of `dim`.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, dim) to the same shape."""
        batch, tokens, dim = x.shape
        # (3, B, heads, T, dim per head)
        parts = self.query_key_value(x).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1) / math.sqrt(dim // self.heads)).softmax(dim=-1)
        return self.project((weights @ value).transpose(1, 2).reshape(batch, tokens, dim))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)).

    Parameters
    ----------
    dim, heads : int
        As for `Attention`.
    mlp_dim : int
        Hidden units of the MLP.
    activation : str
        See `make_activation`.
    """

    def __init__(self, dim: int, heads: int, mlp_dim: int, activation: str) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_dim), make_activation(activation), nn.Linear(mlp_dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, dim) to the same shape."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Tokens(nn.Module):
    """Images to patch embeddings with a class token in front, plus positions.

    Parameters
    ----------
    input_shape : tuple of int
        (C, H, W).
    patch : int
        Side of a patch, a divisor of H and W.
    dim : int
        Size of a token.
    """

    def __init__(self, input_shape: tuple[int, int, int], patch: int, dim: int) -> None:
        super().__init__()
        channels, height, width = input_shape
        count = (height // patch) * (width // patch)
        self.embed = nn.Conv2d(channels, dim, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(POSITION_STD * torch.randn(1, 1 + count, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to tokens (B, 1 + patches, dim)."""
        patches = self.embed(x).flatten(2).transpose(1, 2)
        start = self.class_token.expand(len(x), -1, -1)
        return torch.cat([start, patches], dim=1) + self.positions


class ViT(nn.Module):
    """Transformer over the patches of an image; the class token goes to the head.

    Parameters
    ----------
    input_shape : tuple of int
        (C, H, W).
    num_classes : int
        Number of outputs.
    width : int, default 768
        Units of the hidden layer of each block's MLP, and of the hidden layers of the head.
    depth : int, default 1
        Number of linear layers of the head.
    activation : str, default "gelu"
        An elementwise activation of torch.nn, by its lower-case name.
    init : str, default "default"
        See `initialize`; the positions are N(0, 0.02^2), the class token 0.
    patch : int, optional
        Side of a patch, a divisor of H and W; by default a quarter of H: 7 of 28, 8 of 32.
    dim : int, default 192
        Size of a token.
    blocks : int, default 4
        Number of transformer blocks.
    heads : int, default 3
        Attention heads, a divisor of `dim`.

    Raises
    ------
    ValueError
        If a setting is none of its choices or out of its range, or does not divide what it has to.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        width: int = 768,
        depth: int = 1,
        activation: str = "gelu",
        init: str = "default",
        patch: int | None = None,
        dim: int = 192,
        blocks: int = 4,
        heads: int = 3,
    ) -> None:
        super().__init__()
        height, image_width = input_shape[1:]
        patch = max(1, height // 4) if patch is None else patch
        positive(width=width, patch=patch, dim=dim, blocks=blocks, heads=heads)
        if height % patch or image_width % patch:
            raise ValueError(
                f"model.patch={patch} does not divide {height} x {image_width} pixels."
            )
        if dim % heads:
            raise ValueError(f"model.heads={heads} does not divide model.dim={dim}.")
        self.tokens = Tokens(input_shape, patch, dim)
        self.blocks = nn.Sequential(*[Block(dim, heads, width, activation) for _ in range(blocks)])
        self.norm = nn.LayerNorm(dim)
        self.head = head(nn.Identity(), (dim,), num_classes, width, depth, activation)
        initialize(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, num_classes)."""
        return self.head(self.norm(self.blocks(self.tokens(x)))[:, 0])
