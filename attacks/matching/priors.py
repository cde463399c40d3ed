"""What a candidate should look like before any gradient is matched.

A `Prior` judges the candidate alone and returns its value and derivative in closed form. A
`ForwardPrior` judges what the candidate causes inside the model: it watches modules during the
forward pass that the gradient needs anyway and returns a penalty with its graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from attacks.errors import NotApplicable

Prior = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps candidates (B, *input_shape) to (value, derivative)."""


def total_variation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean absolute difference of neighbouring pixels, down plus across (anisotropic).

    Zero for inputs that are not images. Both means are over all B C H W pixels.
    """
    slope = torch.zeros_like(x)
    if x.dim() < 4:
        return slope.sum(), slope
    down = x[..., 1:, :] - x[..., :-1, :]
    across = x[..., :, 1:] - x[..., :, :-1]
    value = (down.abs().sum() + across.abs().sum()) / x.numel()
    down, across = down.sign_(), across.sign_()
    slope[..., 1:, :] = down
    slope[..., :-1, :] -= down
    slope[..., :, 1:] += across
    slope[..., :, :-1] -= across
    return value, slope.div_(x.numel())


def mean_square(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of squares."""
    return x.square().mean(), x * (2 / x.numel())


def anchored(anchor: Tensor) -> Prior:
    """Mean squared distance to an anchor: GradInversion's group consistency."""

    def prior(x: Tensor) -> tuple[Tensor, Tensor]:
        return mean_square(x - anchor)

    return prior


class ForwardPrior(ABC):
    """A penalty on what happens inside the model; installs hooks on a private copy."""

    @abstractmethod
    def penalty(self) -> Tensor:
        """Value for the last forward pass, with its graph."""


class BatchStatistics(ForwardPrior):
    """Distance of a batch's statistics at every BatchNorm layer from known ones.

    sum over layers |mean - mu| + |var - sigma^2| (Yin et al. 2021, arXiv 2104.07586, eq. 10).

    Parameters
    ----------
    model : nn.Module
        The private copy the candidate is run through.
    statistics : mapping from module name to (mean, variance), each of shape (channels,)

    Raises
    ------
    ValueError
        If a name is no module's, or a shape not that of the module's channels.
    """

    def __init__(self, model: nn.Module, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        self._terms: dict[str, Tensor] = {}
        modules, like = dict(model.named_modules()), next(model.parameters())
        for name, pair in statistics.items():
            if name not in modules:
                raise ValueError(f"batchnorm_statistics names {name!r}, no module of the model.")
            module = modules[name]
            mean, var = (torch.as_tensor(moment) for moment in pair)
            channels = (getattr(module, "num_features", len(mean)),)
            if mean.shape != channels or var.shape != channels:
                raise ValueError(
                    f"batchnorm_statistics of {name!r} have shapes {tuple(mean.shape)} and "
                    f"{tuple(var.shape)}; the module has {channels[0]} channels."
                )
            module.register_forward_pre_hook(self._watch(name, mean.to(like), var.to(like)))

    def _watch(self, name: str, mean: Tensor, var: Tensor) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].transpose(0, 1).flatten(1)
            self._terms[name] = (x.mean(1) - mean).norm() + (x.var(1, unbiased=False) - var).norm()

        return hook

    def penalty(self) -> Tensor:
        """Sum over layers.

        Raises
        ------
        NotApplicable
            If the last pass came by none of them.
        """
        if not self._terms:
            raise NotApplicable("No module that batchnorm_statistics names is used by the model.")
        return torch.stack(list(self._terms.values())).sum()


class Features(ForwardPrior):
    """How far a linear layer's inputs point from known features.

    mean over samples of 1 - (<f(x), z> / |f(x)||z|)^2 (arXiv 2402.09478).

    Parameters
    ----------
    model : nn.Module
        The private copy the candidate is run through.
    layer : str
        Name of the linear layer.
    features : Tensor of shape (n, in_features)
        Of the first n candidates, n <= B.
    """

    def __init__(self, model: nn.Module, layer: str, features: Tensor) -> None:
        self._known = features
        self._seen = features
        model.get_submodule(layer).register_forward_pre_hook(self._watch)

    def _watch(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._seen = args[0]

    def penalty(self) -> Tensor:
        """Mean over the known features."""
        seen = self._seen[: len(self._known)]
        cosine = nn.functional.cosine_similarity(seen, self._known, dim=1)
        return (1 - cosine.square()).mean()
