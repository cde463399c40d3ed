"""Classifiers in plain PyTorch, each a class in its own file; `build_model` makes one from a seed.

All take `width` and `depth` of their head of linear layers, `activation` (any elementwise one of
torch.nn) and `init`, so that one sweep can run over all of them.
"""

from fl_sim.models.build import build_model

__all__ = ["build_model"]
