"""What an attack is told besides the gradient: by a threat model's grants, and by the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from attacks.reading.handover import label_tensor, ordered_range, whole_number


@dataclass(frozen=True)
class Knowledge:
    """What a threat model grants an attack beyond the gradient itself.

    Attributes
    ----------
    labels : Tensor of shape (B,), optional
        The batch's labels, in any order; a list of numbers is made one.
    batch_size : int, optional
        Number of samples in the batch, at least 1.
    data_range : tuple of two floats or of two broadcastable Tensors, optional
        Lowest and highest value an input can take, in the model's input space.
    batchnorm_statistics : mapping from module name to (mean, variance), optional
        Of the batch at the input of each BatchNorm layer, per channel, the variance biased.

    Raises
    ------
    ValueError
        If a value makes no sense, or there are not as many labels as samples.
    """

    labels: Tensor | None = None
    batch_size: int | None = None
    data_range: tuple[Any, Any] | None = None
    batchnorm_statistics: Mapping[str, tuple[Tensor, Tensor]] | None = None

    def __post_init__(self) -> None:
        if self.labels is not None:
            object.__setattr__(self, "labels", label_tensor(self.labels))
        if self.batch_size is not None:
            size = whole_number("batch_size", self.batch_size)
            object.__setattr__(self, "batch_size", size)
        if self.data_range is not None:
            object.__setattr__(self, "data_range", ordered_range(self.data_range))
        if not isinstance(self.batchnorm_statistics, Mapping | None):
            raise ValueError(
                f"batchnorm_statistics={self.batchnorm_statistics!r} is no mapping from layers to "
                "(mean, variance)."
            )
        if self.labels is not None and self.batch_size not in (None, len(self.labels)):
            raise ValueError(
                f"{len(self.labels)} labels are granted for batch_size={self.batch_size}."
            )

    @classmethod
    def of(cls, grants: Knowledge | Mapping[str, Any] | None) -> Knowledge:
        """What is granted, from a dictionary too.

        Parameters
        ----------
        grants : Knowledge, mapping from a field's name to its value, or None

        Returns
        -------
        Knowledge

        Raises
        ------
        ValueError
            If a name is none of the fields, or a value makes no sense.
        """
        if isinstance(grants, Knowledge):
            return grants
        if not isinstance(grants, Mapping | None):
            raise ValueError(f"knows={grants!r} is no Knowledge and no mapping.")
        known = [f.name for f in fields(cls)]
        if strange := [name for name in grants or {} if name not in known]:
            raise ValueError(f"knows has {strange[0]!r}, which is none of {', '.join(known)}.")
        return cls(**(grants or {}))

    def check_shape(self, input_shape: tuple[int, ...] | None) -> None:
        """Raise `ValueError` unless the granted range fits inputs of a shape, if that is known."""
        if self.data_range is None or input_shape is None:
            return
        for end in self.data_range:
            shape = tuple(torch.as_tensor(end).shape)
            try:
                fits = torch.broadcast_shapes(shape, input_shape) == input_shape
            except RuntimeError:
                fits = False
            if not fits and shape != (1, *input_shape):
                raise ValueError(
                    f"data_range has ends of shape {shape}, which do not fit inputs of shape "
                    f"{input_shape}."
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what is granted, in the order of the fields."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)


@dataclass(frozen=True)
class LocalWork:
    """What the protocol has every client do between receiving and sending; public, since the server
    sends it.

    Attributes
    ----------
    steps : int
        Optimiser steps behind one update, at least 1.
    lr : float, optional
        Their learning rate; needed to follow more than one step.
    momentum : float
        Of the SGD steps, as in ``torch.optim.SGD``: 0 for plain SGD.
    optimizer : str
        "sgd", or the name of another optimiser, whose steps are no plain sums of gradients.
    """

    steps: int = 1
    lr: float | None = None
    momentum: float = 0.0
    optimizer: str = "sgd"
