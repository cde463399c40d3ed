"""What every defence has in common: it changes a client's gradient before it is sent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Generator, Tensor

Tensors = dict[str, Tensor]


class Defense(ABC):
    """A client-side change of the mean gradient. Subclasses hold hyperparameters only."""

    @abstractmethod
    def apply(self, gradient: Tensors, generator: Generator) -> Tensors:
        """Return the gradient to send instead.

        Parameters
        ----------
        gradient : dict from parameter name to Tensor
            Mean gradient of the client's local steps; left as it is.
        generator : torch.Generator
            The only source of randomness.

        Returns
        -------
        dict from parameter name to Tensor
            The same names and shapes.
        """


def defend(defenses: Sequence[Defense], gradient: Tensors, generator: Generator) -> Tensors:
    """Apply several defences, one after another."""
    for defense in defenses:
        gradient = defense.apply(gradient, generator)
    return gradient
