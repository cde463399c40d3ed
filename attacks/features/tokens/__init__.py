"""Tokens in place of features: where the first readable pair sees several rows of each image."""

from attacks.features.tokens.inversion import invert_tokens

__all__ = ["invert_tokens"]
