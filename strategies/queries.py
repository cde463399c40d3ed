"""What an active server may send in place of honest parameters, to learn more from the answers.

A query takes the model the server would have sent and changes its parameters in place; names,
shapes and architecture stay, so clients need nothing but the model they expect. What a query
assumes about the data has no default: the scenario has to state it, and so it is in the results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor, nn


class Query(ABC):
    """A choice of parameters. Subclasses hold hyperparameters only."""

    @abstractmethod
    def craft(self, model: nn.Module, generator: Generator) -> None:
        """Overwrite the model's parameters, in place.

        Parameters
        ----------
        model : nn.Module
            Holds the honest parameters.
        generator : torch.Generator
            The only source of randomness.

        Raises
        ------
        ValueError
            If the model does not have the layers the query needs.
        """


class WideGaussian(Query):
    """Fresh Gaussian weights in every linear layer: random-looking, only wider than usual.

    Parameters
    ----------
    gain : float, default 3.0
        The weights have standard deviation ``gain / sqrt(inputs)``, positive; PyTorch's default
        initialisation has 0.58. Biases get the same.

    Raises
    ------
    ValueError
        If the gain is not positive.

    References
    ----------
    Wang, Lee, Lei, "Reconstructing Training Data from Model Gradient, Provably", 2023, section 3
    (weights drawn from a Gaussian by the server).
    """

    def __init__(self, gain: float = 3.0) -> None:
        if not gain > 0:
            raise ValueError(f"gain={gain!r} must be positive.")
        self.gain = gain

    @torch.no_grad()
    def craft(self, model: nn.Module, generator: Generator) -> None:
        """Draw all linear layers anew."""
        for layer in linear_layers(model, 1):
            std = self.gain / layer.in_features**0.5
            for parameter in layer.parameters():
                parameter.copy_(std * torch.randn(parameter.shape, generator=generator))


class PassThrough(Query):
    """Make every layer between the first and the last one pass its input on.

    A square linear layer with the identity as its weight and a large positive bias keeps a
    rectifier behind it in its linear part. What is left is a two-layer network, however deep the
    model is; the first and the last layer stay honest.

    Parameters
    ----------
    offset : float, default 2.0
        The bias, not negative; more than the largest magnitude of a hidden activation.

    Raises
    ------
    ValueError
        If the offset is negative.

    References
    ----------
    Wang, Lee, Lei, 2023, section 4 (deep networks by an identity mapping in the upper layers).
    """

    def __init__(self, offset: float = 2.0) -> None:
        if not offset >= 0:
            raise ValueError(f"offset={offset!r} must not be negative.")
        self.offset = offset

    @torch.no_grad()
    def craft(self, model: nn.Module, generator: Generator) -> None:
        """Overwrite the layers in the middle.

        Raises
        ------
        ValueError
            If there are fewer than three, or one in the middle is not square or has no bias.
        """
        for layer in linear_layers(model, 3)[1:-1]:
            if layer.in_features != layer.out_features or layer.bias is None:
                raise ValueError("A layer that shall pass its input on must be square, with bias.")
            layer.weight.copy_(torch.eye(layer.in_features))
            layer.bias.fill_(self.offset)


class Imprint(Query):
    """Sort the batch into bins by brightness, one bin per unit of the first layer.

    All rows of the first layer are the same, a small multiple of the mean over the input; the
    biases are the quantiles of that mean in the population. All units then feed the next layer
    with the same weights, so the gradients of neighbouring units differ by just the samples whose
    brightness lies between their thresholds. `attacks.ImprintAttack` reads them.

    Parameters
    ----------
    center, spread : float
        Mean and standard deviation of an input's mean in the population, which the server has
        to know roughly; 0 and 0.35 fit standardised Fashion-MNIST. `spread` is positive.

    Raises
    ------
    ValueError
        If the spread is not positive.

    References
    ----------
    Fowl et al., "Robbing the Fed: Directly Obtaining Private Data in Federated Learning with
    Modified Models", 2022 (arXiv 2110.13057), section 4.
    """

    def __init__(self, center: float, spread: float) -> None:
        if not spread > 0:
            raise ValueError(f"spread={spread!r} must be positive.")
        self.center = center
        self.spread = spread

    @torch.no_grad()
    def craft(self, model: nn.Module, generator: Generator) -> None:
        """Overwrite the first layer, and the weight behind it.

        Raises
        ------
        ValueError
            If there are fewer than two, or the first one has no bias.
        """
        first, second = linear_layers(model, 2)[:2]
        if first.bias is None:
            raise ValueError("An imprint needs a bias in the first linear layer.")
        units, inputs = first.weight.shape
        quantiles = (torch.arange(units, dtype=torch.float64) + 0.5) / units
        thresholds = self.center + self.spread * torch.special.ndtri(quantiles)
        first.weight.fill_(1 / (inputs * units))
        first.bias.copy_(-thresholds / units)
        column = torch.randn(second.out_features, 1, generator=generator)
        second.weight.copy_(column.expand_as(second.weight))


def linear_layers(model: nn.Module, least: int) -> list[nn.Linear]:
    """Return a model's linear layers in order.

    Parameters
    ----------
    model : nn.Module
    least : int
        How many are needed.

    Raises
    ------
    ValueError
        If there are fewer than `least`.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if len(layers) < least:
        raise ValueError(f"The query needs {least} linear layers; the model has {len(layers)}.")
    return layers


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
