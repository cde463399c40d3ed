"""LeNet-5 (LeCun, Bottou, Bengio, Haffner 1998): two pooled convolutions, three linear layers.

Its 400 features are fewer than the pixels of a digit, which makes it a hard case for gradient
inversion. Sigmoid and average pooling by default: gradient matching needs a smooth network.
"""

from __future__ import annotations

from torch import Tensor, nn

from fl_sim.models.activations import make_activation
from fl_sim.models.initialize import initialize
from fl_sim.models.layers import POOLS, feature_count, linear_stack, one_of, positive

TAPER = 0.7  # 84 / 120


class LeNet(nn.Module):
    """LeNet-5.

    Parameters
    ----------
    input_shape : tuple of int
        (C, H, W).
    num_classes : int
        Number of outputs.
    width : int, default 120
        Units of the first hidden linear layer; each further one has 0.7 times as many: 84.
    depth : int, default 3
        Number of linear layers.
    activation : str, default "sigmoid"
        An elementwise activation of torch.nn, by its lower-case name.
    init : str, default "default"
        See `initialize`.
    pool : "avg" or "max", default "avg"
        Kind of pooling.

    Raises
    ------
    ValueError
        If a setting is none of its choices or out of its range, or the image is too small.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        width: int = 120,
        depth: int = 3,
        activation: str = "sigmoid",
        init: str = "default",
        pool: str = "avg",
    ) -> None:
        super().__init__()
        positive(width=width, depth=depth)
        one_of(list(POOLS), pool=pool)
        # The original reads 32x32; smaller digits are padded to it.
        padding = max(0, (32 - min(input_shape[1:])) // 2)
        self.front = nn.Sequential(
            nn.Conv2d(input_shape[0], 6, 5, padding=padding),
            make_activation(activation),
            POOLS[pool](2),
            nn.Conv2d(6, 16, 5),
            make_activation(activation),
            POOLS[pool](2),
            nn.Flatten(),
        )
        hidden = [max(1, round(width * TAPER**k)) for k in range(depth - 1)]
        features = feature_count(self.front, input_shape)
        self.layers = linear_stack([features, *hidden, num_classes], activation)
        initialize(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, num_classes)."""
        return self.layers(self.front(x))
