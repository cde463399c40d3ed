"""Layers and losses that can be differentiated only once are found, and named."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from attacks.reading.once import lacks_second_derivative, without_second_derivative
from attacks.reading.private import private_copy
from attacks.reading.twice import twice_differentiable

CLASSES = torch.tensor([1, 3, 5, 0])


class Marked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return slope * ctx.saved_tensors[0].cos()


class InNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, slope):
        return torch.from_numpy(slope.numpy() * ctx.saved_tensors[0].cos().numpy())


class Calls(nn.Module):
    """A layer that is nothing but a call of a function."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(x)


def boxes(x):
    corners = torch.tensor([[0.0, 0, 4, 4]]).to(x)
    return torchvision.ops.roi_align(x, [corners] * len(x), 2)


class Bags(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(5, 16)

    def forward(self, x):
        words = torch.tensor([[0, 1, 2]]).expand(len(x), 3)
        return (x.flatten(1) * self.bag(words)).view_as(x)


ONCE = {
    "boxes": (Calls(boxes), "'1' (Calls)"),
    "marked": (Calls(Marked.apply), "'1' (Calls)"),
    "numpy": (Calls(InNumpy.apply), "'1' (Calls)"),
    "response norm": (nn.CrossMapLRN2d(2), "'1' (CrossMapLRN2d)"),
    "bags": (Bags(), "'1.bag' (EmbeddingBag)"),
    "within": (nn.Sequential(nn.Tanh(), nn.CrossMapLRN2d(2)), "'1.1' (CrossMapLRN2d)"),
    "deformable": (
        Calls(
            lambda x: torchvision.ops.deform_conv2d(
                x, torch.zeros(len(x), 18, 4, 4).to(x), torch.ones(1, 1, 3, 3).to(x), padding=1
            )
        ),
        "'1' (Calls)",
    ),
}


@pytest.mark.parametrize(("layer", "named"), ONCE.values(), ids=ONCE)
def test_the_layer_without_a_second_derivative_is_named(layer, named):
    model = private_copy(nn.Sequential(nn.Conv2d(1, 1, 1), layer, nn.Flatten(), nn.LazyLinear(3)))
    model(torch.rand(2, 1, 4, 4))
    assert without_second_derivative(model, torch.rand(2, 1, 4, 4)) == named


def test_a_model_that_is_the_layer_is_named_by_its_own_class():
    model = twice_differentiable(private_copy(nn.CrossMapLRN2d(2)))
    assert without_second_derivative(model, torch.rand(2, 3, 4, 4)) == "CrossMapLRN2d"


def test_losses():
    x = torch.arange(24.0).view(4, 6).sin().double()
    assert not lacks_second_derivative(functional.cross_entropy, (x, CLASSES))
    assert not lacks_second_derivative(functional.multi_margin_loss, (x, CLASSES))
    assert not lacks_second_derivative(functional.cross_entropy, (x, "no labels"))

    def ctc(output, labels):
        lengths = torch.tensor([4]), torch.tensor([1])
        return functional.ctc_loss(output.log_softmax(1)[:, None], labels[None, :1], *lengths)

    assert lacks_second_derivative(ctc, (x, CLASSES))
