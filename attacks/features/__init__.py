"""Networks with something before their linear layers: features read exactly, then inverted."""

from attacks.features.attack import FeatureInversion

__all__ = ["FeatureInversion"]
