"""Optimisation attacks: search for a batch whose gradient is the observed one."""

from attacks.matching.deep_leakage import DeepLeakage
from attacks.matching.feature_matching import FeatureMatching
from attacks.matching.inverting_gradients import InvertingGradients
from attacks.matching.see_through import SeeThroughGradients

__all__ = ["DeepLeakage", "FeatureMatching", "InvertingGradients", "SeeThroughGradients"]
