"""The networks and batches that architectures.py measures: what a row is, and which there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from fl_sim.data import ImageData
from fl_sim.data.bundled import fashion_mnist_mini
from fl_sim.data.cifar10_sample import cifar10_sample

CONVNET = "fl_sim.models.convnet.ConvNet"
LENET = "fl_sim.models.lenet.LeNet"
VGG11 = "fl_sim.models.vgg11.VGG11"
RESNET18 = "fl_sim.models.resnet18.ResNet18"
VIT = "fl_sim.models.vit.ViT"
POOLED = {"downsample": "max", "kernel_size": 3}
SHARE = (20.0, 40.0)
"""As long as the features took, but no less and no more CPU seconds."""


@dataclass(frozen=True)
class Row:
    """A network and a batch.

    Attributes
    ----------
    model : dict
        `_target_` and settings, as in conf/model.
    batch : int
        Images.
    beside : tuple of str
        Further attacks.
    beside_seeds : int
        On how many of the gradients.
    seconds : (float, float)
        Least and most CPU seconds of the attacks beside ours.
    data : callable
        Where the images come from.
    ranged : bool
        Whether our attack is told the range of the pixels.
    ours : "features" or "reading"
        The whole attack, or only the reading of the features: for networks whose inversion takes
        hours on one core.
    double : bool
        Whether the client computes in float64.
    """

    model: dict[str, Any]
    batch: int
    beside: tuple[str, ...] = ("inverting_gradients",)
    beside_seeds: int = 1
    seconds: tuple[float, float] = SHARE
    data: Callable[[], ImageData] = fashion_mnist_mini
    ranged: bool = False
    ours: Literal["features", "reading"] = "features"
    double: bool = False


BOTH = ("feature_matching", "inverting_gradients")
ROWS: dict[str, Row] = {
    **{
        f"strided_{a}_{b}": Row({"_target_": CONVNET, "activation": a}, b, beside_seeds=3)
        for b in (8, 16, 32)
        for a in ("relu", "gelu")
    },
    **{
        f"strided_{a}_colour_8": Row(
            {"_target_": CONVNET, "activation": a}, 8, beside_seeds=3, data=cifar10_sample
        )
        for a in ("relu", "gelu")
    },
    "strided_relu_wide_colour_8": Row(
        {"_target_": CONVNET, "activation": "relu", "channels": (64, 128)}, 8, data=cifar10_sample
    ),
    "pooled_relu_8": Row(
        {"_target_": CONVNET, "activation": "relu", **POOLED}, 8, beside_seeds=3, ranged=True
    ),
    **{
        f"lenet_{a}_4": Row({"_target_": LENET, "activation": a}, 4, beside_seeds=3)
        for a in ("tanh", "sigmoid", "relu")
    },
    "lenet_relu_max_4": Row(
        {"_target_": LENET, "activation": "relu", "pool": "max"}, 4, beside_seeds=3
    ),
    **{
        f"vit_{init}_{b}": Row({"_target_": VIT, "init": init}, b, ())
        for b in (2, 3, 4, 6, 8)
        for init in ("default", "trunc_normal")
    },
    "vit_tokens_default_6": Row({"_target_": VIT}, 6, (), ours="reading"),
    **{
        f"vit_float64_{init}_8": Row({"_target_": VIT, "init": init}, 8, (), double=True)
        for init in ("default", "trunc_normal")
    },
    "vgg11_default_32": Row({"_target_": VGG11}, 32, (), ours="reading"),
    "vgg11_kaiming_normal_32": Row(
        {"_target_": VGG11, "init": "kaiming_normal"}, 32, BOTH, 3, (60.0, 60.0), ours="reading"
    ),
    "vgg11_kaiming_normal_4": Row(
        {"_target_": VGG11, "init": "kaiming_normal"}, 4, BOTH, 3, ours="reading"
    ),
    "resnet18_32": Row(
        {"_target_": RESNET18, "depth": 2}, 32, BOTH, 3, (80.0, 80.0), ours="reading"
    ),
    "resnet18_2": Row({"_target_": RESNET18, "depth": 2}, 2, BOTH, 3, ours="reading"),
    "resnet18_thin_8": Row({"_target_": RESNET18, "depth": 2, "channels": 8}, 8, BOTH),
}
"""By name, the batch size last."""
