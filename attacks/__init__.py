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
from attacks.tensor.identifiability import Identifiability, identifiability
from attacks.tensor.published import PublishedTensorAttack

__all__ = [
    "Attack",
    "Identifiability",
    "Interrupted",
    "Knowledge",
    "NotApplicable",
    "Problem",
    "PublishedTensorAttack",
    "Reconstruction",
    "TensorAttack",
    "identifiability",
    "validate_gradient",
]
