"""Attacks that reconstruct a training batch from a single gradient. Plain PyTorch."""

from attacks.base import (
    Attack,
    Interrupted,
    Knowledge,
    NotApplicable,
    Problem,
    Reconstruction,
    validate_gradient,
)
from attacks.tensor.attack import TensorAttack

__all__ = [
    "Attack",
    "Interrupted",
    "Knowledge",
    "NotApplicable",
    "Problem",
    "Reconstruction",
    "TensorAttack",
    "validate_gradient",
]
