"""ResNet-18 (He, Zhang, Ren, Sun 2016) with the stem for small images: one 3x3 convolution."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from fl_sim.models.activations import make_activation
from fl_sim.models.initialize import initialize
from fl_sim.models.layers import head, one_of, positive

STAGES = 4
BLOCKS_PER_STAGE = 2


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(channels, 32), channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "group": _group_norm,
    "batch": nn.BatchNorm2d,
    "none": lambda channels: nn.Identity(),
}


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Parameters
    ----------
    inner, outer : int
        Channels that come in and go out.
    stride : int
        Of the first convolution, and of the shortcut.
    activation : str
        See `make_activation`.
    norm : str
        One of `NORMS`.
    """

    def __init__(self, inner: int, outer: int, stride: int, activation: str, norm: str) -> None:
        super().__init__()
        make_norm = NORMS[norm]
        self.residual = nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride, padding=1, bias=False),
            make_norm(outer),
            make_activation(activation),
            nn.Conv2d(outer, outer, 3, padding=1, bias=False),
            make_norm(outer),
        )
        same = stride == 1 and inner == outer
        self.shortcut: nn.Module = nn.Identity()
        if not same:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride, bias=False), make_norm(outer)
            )
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inner, H, W) to (B, outer, H / stride, W / stride)."""
        return self.activation(self.residual(x) + self.shortcut(x))


class ResNet18(nn.Module):
    """Four stages of two residual blocks, global average pooling, and a head.

    Parameters
    ----------
    input_shape : tuple of int
        (C, H, W).
    num_classes : int
        Number of outputs.
    width : int, default 1024
        Units of the hidden linear layers of the head, where depth makes any.
    depth : int, default 1
        Number of linear layers of the head: 1 is the original, 2 inserts a hidden layer.
    activation : str, default "relu"
        An elementwise activation of torch.nn, by its lower-case name.
    init : str, default "default"
        See `initialize`.
    channels : int, default 64
        Output channels of the first stage; each further one doubles them.
    norm : "group", "batch" or "none", default "group"
        Group normalisation (32 groups at most) treats each sample alone and has no running
        statistics to federate (Hsieh et al. 2020, arXiv 1910.00189); "batch" is the original.

    Raises
    ------
    ValueError
        If a setting is none of its choices or out of its range, or the image is too small.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        width: int = 1024,
        depth: int = 1,
        activation: str = "relu",
        init: str = "default",
        channels: int = 64,
        norm: str = "group",
    ) -> None:
        super().__init__()
        positive(channels=channels)
        one_of(list(NORMS), norm=norm)
        front: list[nn.Module] = [
            nn.Conv2d(input_shape[0], channels, 3, padding=1, bias=False),
            NORMS[norm](channels),
            make_activation(activation),
        ]
        inner = channels
        for stage in range(STAGES):
            outer = channels * 2**stage
            for block in range(BLOCKS_PER_STAGE):
                stride = 2 if stage > 0 and block == 0 else 1
                front.append(Block(inner, outer, stride, activation, norm))
                inner = outer
        front.append(nn.AdaptiveAvgPool2d(1))
        self.front = nn.Sequential(*front)
        self.head = head(self.front, input_shape, num_classes, width, depth, activation)
        initialize(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, num_classes)."""
        return self.head(self.front(x))
