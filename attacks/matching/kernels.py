"""Which convolution kernels suit a small network.

oneDNN reorders weights and images into blocks before it multiplies, which pays for large
convolutions. A matching attack calls a small network thousands of times, and there the reordering
costs more than the products: PyTorch's own kernels (unfold, then one matrix product) take two
thirds of the time on a LeNet with one image, and the same from about 2e7 products on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 10_000_000
"""Products of a forward pass below which PyTorch's own kernels are taken."""


def count_products(model: nn.Module, inputs: Tensor) -> int:
    """Multiplications of a forward pass in the model's convolutions, as far as they are modules.

    Parameters
    ----------
    model : nn.Module
        Run once.
    inputs : Tensor of shape (B, *input_shape)

    Returns
    -------
    int
    """
    total = 0

    def count(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module.weight, Tensor)
        total += output.numel() * module.weight[0].numel()

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds)]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return total


@contextmanager
def suited_kernels(products: int) -> Iterator[None]:
    """Compute convolutions on the CPU without oneDNN inside the block if they are small."""
    switch: Any = torch.backends.mkldnn
    before = switch.enabled
    switch.enabled = before and products >= SMALL
    try:
        yield
    finally:
        switch.enabled = before
