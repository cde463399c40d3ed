"""Quantisation: send each entry in few bits, rounded at random so that the mean stays right."""

from __future__ import annotations

from torch import Generator, Tensor

from fl_sim.defenses.base import Defense, Tensors, uniform


class Quantize(Defense):
    """Round each tensor stochastically to ``2 ** bits`` equally spaced values.

    They span [-a, a], with a the tensor's largest magnitude. An entry between two of them goes up
    with a probability proportional to its distance from the lower one, so the result is unbiased.

    Parameters
    ----------
    bits : int, default 8
        1 to 16.

    Raises
    ------
    ValueError
        If this is no integer from 1 to 16.

    References
    ----------
    Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization", 2017 (there
    with the Euclidean norm in place of the largest magnitude).
    """

    def __init__(self, bits: int = 8) -> None:
        if not (isinstance(bits, int) and 1 <= bits <= 16):
            raise ValueError(f"defense.quantize.bits={bits!r} must be an integer from 1 to 16.")
        self.bits = bits

    def on_update(self, update: Tensors, scale: float, generator: Generator) -> Tensors:
        """Return the rounded update."""
        return {name: self._rounded(value, generator) for name, value in update.items()}

    def _rounded(self, value: Tensor, generator: Generator) -> Tensor:
        largest = value.abs().max()
        step = 2 * largest / (2**self.bits - 1)
        if not step > 0:
            return value.clone()
        steps = ((value + largest) / step + uniform(value, generator)).floor()
        return steps.clamp(0, 2**self.bits - 1) * step - largest
