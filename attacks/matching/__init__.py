"""Optimisation attacks: search for a batch whose gradient is the observed one."""

from attacks.matching.deep_leakage import DeepLeakage
from attacks.matching.inverting_gradients import InvertingGradients

__all__ = ["DeepLeakage", "InvertingGradients"]
