"""Small convolutional network: a few convolutions that halve the image, then linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from fl_sim.models.activations import make_activation
from fl_sim.models.initialize import initialize
from fl_sim.models.layers import POOLS, head, one_of, positive


class ConvNet(nn.Module):
    """Convolutions that halve the image, by their stride or by pooling, and a head.

    Parameters
    ----------
    input_shape : tuple of int
        (C, H, W).
    num_classes : int
        Number of outputs.
    width : int, default 1024
        Units of each hidden linear layer of the head.
    depth : int, default 2
        Number of linear layers of the head.
    activation : str, default "gelu"
        An elementwise activation of torch.nn, by its lower-case name.
    init : str, default "default"
        See `initialize`.
    channels : sequence of int, default (32, 64)
        Output channels of each convolution; each halves the image.
    kernel_size : int, default 5
        Of all convolutions; odd.
    downsample : "stride", "max" or "avg", default "stride"
        What halves the image: the convolutions themselves, or pooling after the activation.

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
        depth: int = 2,
        activation: str = "gelu",
        init: str = "default",
        channels: Sequence[int] = (32, 64),
        kernel_size: int = 5,
        downsample: str = "stride",
    ) -> None:
        super().__init__()
        if not isinstance(channels, list | tuple) or not channels:
            raise ValueError(f"model.channels={channels!r} is not a list such as [32,64].")
        positive(kernel_size=kernel_size, **{f"channels[{i}]": c for i, c in enumerate(channels)})
        one_of(["stride", *POOLS], downsample=downsample)
        if kernel_size % 2 == 0:
            raise ValueError(f"model.kernel_size={kernel_size} is not odd.")
        stride = 2 if downsample == "stride" else 1
        front: list[nn.Module] = []
        for inner, outer in pairwise([input_shape[0], *channels]):
            front.append(nn.Conv2d(inner, outer, kernel_size, stride, padding=kernel_size // 2))
            front.append(make_activation(activation))
            if downsample in POOLS:
                front.append(POOLS[downsample](2))
        self.front = nn.Sequential(*front)
        self.head = head(self.front, input_shape, num_classes, width, depth, activation)
        initialize(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, num_classes)."""
        return self.head(self.front(x))
