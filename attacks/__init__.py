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
from attacks.labels import LabelEstimate, infer_labels
from attacks.matching import DeepLeakage, InvertingGradients
from attacks.tensor.attack import TensorAttack
from attacks.tensor.identifiability import Identifiability, identifiability
from attacks.tensor.published import PublishedTensorAttack

__all__ = [
    "Attack",
    "DeepLeakage",
    "Identifiability",
    "Interrupted",
    "InvertingGradients",
    "Knowledge",
    "LabelEstimate",
    "NotApplicable",
    "Problem",
    "PublishedTensorAttack",
    "Reconstruction",
    "TensorAttack",
    "identifiability",
    "infer_labels",
    "validate_gradient",
]
