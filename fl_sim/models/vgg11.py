"""VGG-11 (Simonyan and Zisserman 2015, configuration A) for small images."""

from __future__ import annotations

from torch import Tensor, nn

from fl_sim.models.activations import make_activation
from fl_sim.models.initialize import initialize
from fl_sim.models.layers import POOLS, head, one_of, positive

STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Output channels of the 3x3 convolutions between poolings, in units of the first one's."""


class VGG11(nn.Module):
    """Eight 3x3 convolutions in five stages, each followed by pooling, and a head.

    Parameters
    ----------
    input_shape : tuple of int
        (C, H, W).
    num_classes : int
        Number of outputs.
    width : int, default 512
        Units of each hidden linear layer of the head.
    depth : int, default 2
        Number of linear layers of the head.
    activation : str, default "relu"
        An elementwise activation of torch.nn, by its lower-case name.
    init : str, default "default"
        See `initialize`.
    channels : int, default 64
        Output channels of the first convolution; the last has eight times as many.
    pool : "max" or "avg", default "max"
        Kind of pooling. A last odd row or column is pooled alone, so that 28 pixels last for
        all five stages.

    Raises
    ------
    ValueError
        If a setting is none of its choices or out of its range, or the image is too small.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        width: int = 512,
        depth: int = 2,
        activation: str = "relu",
        init: str = "default",
        channels: int = 64,
        pool: str = "max",
    ) -> None:
        super().__init__()
        positive(channels=channels)
        one_of(list(POOLS), pool=pool)
        front: list[nn.Module] = []
        inner = input_shape[0]
        for stage in STAGES:
            for multiple in stage:
                front.append(nn.Conv2d(inner, channels * multiple, 3, padding=1))
                front.append(make_activation(activation))
                inner = channels * multiple
            front.append(POOLS[pool](2, ceil_mode=True))
        self.front = nn.Sequential(*front)
        self.head = head(self.front, input_shape, num_classes, width, depth, activation)
        initialize(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, num_classes)."""
        return self.head(self.front(x))
