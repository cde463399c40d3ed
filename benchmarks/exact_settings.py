"""The settings of the exact attack's benchmark: what a row is, and which rows make which table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Data = Literal["fashion_mnist", "photographs", "one photograph"]


@dataclass(frozen=True)
class Setting:
    """One row of a table.

    Attributes
    ----------
    activation : str
        Name in torch.nn.
    width, batch : int
        m and B.
    deep : tuple of int
        Widths of further hidden layers.
    init : str
        "default", "kaiming" or "xavier".
    data : str
        Where the images come from; see `exact_data.pictures`.
    raw : bool
        Whether inputs are in [0, 1] rather than standardised.
    one_label : bool
        Whether all images have the same label.
    twin : bool
        Whether the last image is a copy of the first, label included.
    epochs : int
        Epochs of training before the gradient.
    attack : str
        "tensor", "spear" or "peeling".
    tensor_step : bool
        Whether the tensor attack takes starts from the moment tensor.
    """

    activation: str
    width: int = 1024
    batch: int = 32
    deep: tuple[int, ...] = ()
    init: str = "default"
    data: Data = "fashion_mnist"
    raw: bool = False
    one_label: bool = False
    twin: bool = False
    epochs: int = 0
    attack: str = "tensor"
    tensor_step: bool = True

    @property
    def remarks(self) -> str:
        """What is out of the ordinary, in words."""
        marks = [f"{2 + len(self.deep)} layers ({', '.join(map(str, self.deep))} more)"] * bool(
            self.deep
        )
        marks += [f"{self.init} start"] * (self.init != "default")
        marks += [
            {"fashion_mnist": "", "photographs": "colour, d = 3072"}.get(self.data, self.data)
        ]
        marks += ["raw"] * self.raw + ["one label"] * self.one_label
        marks += ["two images alike"] * self.twin
        marks += [f"after {self.epochs} epoch{'s' * (self.epochs > 1)}"] * (self.epochs > 0)
        marks += ["random starts"] * (not self.tensor_step)
        return ", ".join(m for m in marks if m)


KINKED = ("ReLU", "LeakyReLU")
SMOOTH = ("GELU", "SiLU", "Softplus", "ELU", "Tanh", "Sigmoid")
OTHERS = (
    "Mish", "SELU", "CELU", "Softsign", "Hardswish", "LogSigmoid", "Hardtanh", "ReLU6",
    "Softshrink", "Hardshrink", "Tanhshrink", "PReLU", "Hardsigmoid", "RReLU",
)  # fmt: skip
THREE = ("ReLU", "GELU", "Tanh")

TABLES: dict[str, list[Setting]] = {
    "headline": [
        *(Setting(a, 1024, 128) for a in KINKED + SMOOTH),
        Setting("GELU", 1024, 64, deep=(256, 256, 256)),
        *(Setting(a, 2048, 64, data="photographs") for a in ("GELU", "ReLU")),
        *(Setting(a, 2048, 256) for a in ("GELU", "Tanh", "ReLU")),
    ],
    "activations": [Setting(a, batch=b) for b in (32, 64, 128) for a in OTHERS],
    "conditions": [
        replace(Setting(a, 1024, 128), **variant)
        for variant in (
            {"init": "kaiming"},
            {"init": "xavier"},
            {"raw": True},
            {"one_label": True},
            {"twin": True},
        )
        for a in KINKED + SMOOTH
    ],
    "colour": [
        Setting(a, 2048, 32, data="photographs", raw=raw)
        for raw in (False, True)
        for a in ("ReLU", "GELU", "Tanh", "Sigmoid")
    ],
    "trained": [
        Setting(a, 1024, b, epochs=e) for b in (8, 32) for a in THREE for e in (0, 1, 5, 20)
    ],
    "collinear": [
        Setting(a, 2048, b, data="one photograph", raw=True)
        for b in (8, 32)
        for a in ("ReLU", "GELU", "Tanh", "Softplus")
    ],
    "starts": [
        Setting(a, batch=b, tensor_step=t)
        for a in THREE
        for b in (16, 32, 64, 128)
        for t in (True, False)
    ],
    "rivals": [
        Setting("ReLU", 1000, b, raw=raw, attack=attack)
        for raw in (True, False)
        for b in (8, 16, 24, 32, 64)
        for attack in ("tensor", "spear", "peeling")
    ],
    "grid": [
        Setting(a, m, b)
        for a in THREE
        for m in (128, 256, 512, 1024, 2048)
        for b in (8, 16, 32, 64, 128)
    ],
    "smallest": [
        Setting(a, m, b)
        for b, widths in ((64, (128, 160, 192, 256)), (128, (256, 300, 384, 512)))
        for a in KINKED + SMOOTH
        for m in widths
    ],
    "peak": [Setting(a, 4096, b) for a in ("GELU", "ReLU") for b in (256, 384, 512)],
}
