"""Attacks that reconstruct a training batch from a single gradient. Plain PyTorch."""

from attacks.analytic import AnalyticAttack
from attacks.base import (
    Attack,
    Interrupted,
    Knowledge,
    LocalWork,
    NotApplicable,
    Problem,
    Reconstruction,
    validate_gradient,
)
from attacks.cocktail_party import CocktailPartyAttack
from attacks.features import FeatureInversion
from attacks.imprint import ImprintAttack
from attacks.labels import LabelEstimate, infer_labels
from attacks.matching import DeepLeakage, FeatureMatching, InvertingGradients, SeeThroughGradients
from attacks.peeling import PeelingAttack
from attacks.spear import SpearAttack
from attacks.tensor.attack import TensorAttack
from attacks.tensor.identifiability import Identifiability, identifiability
from attacks.tensor.published import PublishedTensorAttack
from attacks.updates import UpdateTensorAttack

__all__ = [
    "AnalyticAttack",
    "Attack",
    "CocktailPartyAttack",
    "DeepLeakage",
    "FeatureInversion",
    "FeatureMatching",
    "Identifiability",
    "ImprintAttack",
    "Interrupted",
    "InvertingGradients",
    "Knowledge",
    "LabelEstimate",
    "LocalWork",
    "NotApplicable",
    "PeelingAttack",
    "Problem",
    "PublishedTensorAttack",
    "Reconstruction",
    "SeeThroughGradients",
    "SpearAttack",
    "TensorAttack",
    "UpdateTensorAttack",
    "identifiability",
    "infer_labels",
    "validate_gradient",
]
