"""Second derivatives: formulas against PyTorch's kernels, switches, and recomputed layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction, checkpoint

from attacks.matching.client import Client, private_model
from attacks.reading.once import without_second_derivative
from attacks.reading.private import private_copy
from attacks.reading.twice import differentiable_twice, twice_differentiable


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


CLASSES = torch.tensor([1, 3, 5, 0])
SEVERAL = torch.tensor([[1, 3, -1, 0, 0, 0], [5, -1, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5], [-1] * 6])
PER_CLASS = torch.tensor([1.0, 2, 3, 0.5, 1, 4]).double()
ATTENTION = nn.MultiheadAttention(6, 2).double()
DECODER = nn.TransformerDecoderLayer(6, 2, 8, 0.0).double()
LSTM, GRU = nn.LSTM(6, 4).double(), nn.GRU(6, 4).double()
RNN = nn.RNN(6, 4, nonlinearity="relu").double()

FORMULAS = {
    "hardsigmoid": lambda x: functional.hardsigmoid(4 * x),
    "hardsigmoid module": lambda x: nn.Hardsigmoid()(4 * x),
    "hardsigmoid in place": lambda x: functional.hardsigmoid(4 * x, inplace=True),
    "hardsigmoid beneath": lambda x: torch._C._nn.hardsigmoid(4 * x),
    "hardsigmoid operator": lambda x: torch.ops.aten.hardsigmoid(4 * x),
    "hardsigmoid overload": lambda x: torch.ops.aten.hardsigmoid.default(4 * x),
    "multi margin": lambda x: functional.multi_margin_loss(x, CLASSES),
    "multi margin squared": lambda x: functional.multi_margin_loss(x, CLASSES, p=2, margin=0.7),
    "multi margin weighted": lambda x: functional.multi_margin_loss(x, CLASSES, weight=PER_CLASS),
    "multi margin summed": lambda x: nn.MultiMarginLoss(reduction="sum")(x, CLASSES),
    "multi margin apart": lambda x: nn.MultiMarginLoss(reduction="none")(x, CLASSES),
    "multi margin of one": lambda x: functional.multi_margin_loss(x[0], CLASSES[0]),
    "multilabel margin": lambda x: functional.multilabel_margin_loss(x, SEVERAL),
    "multilabel margin apart": lambda x: nn.MultiLabelMarginLoss(reduction="none")(x, SEVERAL),
    "multilabel margin of one": lambda x: functional.multilabel_margin_loss(x[0], SEVERAL[0]),
    "attention": lambda x: functional.scaled_dot_product_attention(*x.view(3, 2, 2, 2)),
    "causal attention": lambda x: functional.scaled_dot_product_attention(
        *x.view(3, 2, 2, 2), is_causal=True
    ),
    "attention module": nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True).double(),
    "attention's weights": lambda x: ATTENTION(x, x, x)[0],
    "decoder": lambda x: DECODER(x, x),
    "lstm": lambda x: LSTM(x)[0],
    "gru": lambda x: GRU(x)[0],
    "rnn": lambda x: RNN(x)[0],
    "hardswish": lambda x: functional.hardswish(4 * x),
    "grid": lambda x: functional.grid_sample(
        draw(1, 2, 5, 5), x.tanh().view(1, 4, 3, 2), align_corners=False
    ),
    "bicubic": lambda x: functional.interpolate(x.view(1, 1, 4, 6), scale_factor=2, mode="bicubic"),
    "rms norm": nn.RMSNorm(6).double(),
    "layer norm": nn.LayerNorm(6).double(),
}

formulas = pytest.mark.parametrize("function", FORMULAS.values(), ids=FORMULAS)


@formulas
def test_values_and_derivatives_are_the_kernels_own(function):
    def derived():
        x = draw(4, 6).requires_grad_(True)
        made = function(x)
        return made.detach(), torch.autograd.grad(made.sin().sum(), x)[0]

    usual = derived()
    with differentiable_twice():
        ours = derived()
    for a, b in zip(usual, ours, strict=True):
        torch.testing.assert_close(a, b)


@formulas
def test_the_second_derivative_is_that_of_differences(function):
    def slope(x):
        with differentiable_twice():
            value = function(x * scale).sin().sum()
            return torch.autograd.grad(value, scale, create_graph=True)[0].sin()

    scale = torch.ones(1, dtype=torch.float64, requires_grad=True)
    x, direction = draw(4, 6).requires_grad_(True), draw(4, 6, seed=1)
    (found,) = torch.autograd.grad(slope(x), x)
    step = 1e-6
    above, below = (slope(x.detach() + sign * step * direction).detach() for sign in (1, -1))
    expected = float((above - below) / (2 * step))
    assert float((found * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_in_place_overwrites_its_input():
    x = draw(3)
    with differentiable_twice():
        functional.hardsigmoid(x, inplace=True)
        torch._C._nn.hardsigmoid_(y := draw(3))
    assert torch.equal(x, functional.hardsigmoid(draw(3)))
    assert torch.equal(x, y)


def test_a_bad_reduction_is_refused():
    with differentiable_twice(), pytest.raises(ValueError, match="reduction='most'"):
        functional.multi_margin_loss(draw(4, 6), CLASSES, reduction="most")


class Watching(TorchFunctionMode):
    """Whether cuDNN is on when a recurrent function is called."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen[getattr(func, "__name__", "")] = torch.backends.cudnn.enabled
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.LSTM(6, 4), "lstm"),
        (nn.GRU(6, 4), "gru"),
        (nn.RNN(6, 4), "rnn_tanh"),
        (nn.RNN(6, 4, nonlinearity="relu"), "rnn_relu"),
    ],
)
def test_recurrent_layers_are_run_without_cudnn(layer, name):
    before = torch.backends.cudnn.enabled
    with Watching() as watching, differentiable_twice():
        layer(torch.rand(4, 6))
    assert watching.seen[name] is False
    assert torch.backends.cudnn.enabled == before


def test_every_switch_is_put_back():
    def switches():
        backends = torch.backends.cuda
        return (
            torch.backends.mha.get_fastpath_enabled(),
            backends.flash_sdp_enabled(),
            backends.mem_efficient_sdp_enabled(),
            backends.math_sdp_enabled(),
        )

    before = switches()
    with differentiable_twice():
        assert switches() == (False, False, False, True)
        with differentiable_twice():
            pass
        assert switches() == (False, False, False, True)
    assert switches() == before
    with pytest.raises(KeyboardInterrupt), differentiable_twice():
        raise KeyboardInterrupt
    assert switches() == before


def test_a_model_made_twice_differentiable_stays_so_when_copied():
    model = nn.Sequential(nn.Linear(6, 6), nn.Hardsigmoid(), nn.Linear(6, 2)).double()
    assert without_second_derivative(model, draw(4, 6)) is None
    private = private_copy(twice_differentiable(private_copy(model)))
    x = draw(4, 6).requires_grad_(True)
    (slope,) = torch.autograd.grad(private(x).sin().sum(), x, create_graph=True)
    assert torch.autograd.grad(slope.sin().sum(), x)[0].abs().sum() > 0
    assert list(private.state_dict()) == list(model.state_dict())
    assert type(model) is nn.Sequential


class Checkpointed(nn.Module):
    """A layer and a hard sigmoid that are computed again during the backward pass."""

    def __init__(self, reentrant):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(6, 6), nn.Hardsigmoid())
        self.reentrant = reentrant

    def forward(self, x):
        return checkpoint(self.layer, x.tanh(), use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_lose_no_gradient(reentrant):
    kind = CheckpointFunction
    before = vars(kind).get("apply")
    part = Checkpointed(reentrant)
    model = nn.Sequential(nn.Linear(6, 6), part, nn.Linear(6, 6)).double()
    x = draw(4, 6)
    nn.functional.cross_entropy(model(x), CLASSES).backward()
    names = tuple(name for name, _ in model.named_parameters())
    plain = nn.Sequential(model[0], nn.Tanh(), *part.layer, model[2])
    slopes = []
    for module, called in ((model, names), (plain, [n for n, _ in plain.named_parameters()])):
        client = Client(private_model(module, torch.float64), tuple(called), "cross_entropy")
        leaf = x.clone().requires_grad_(True)
        found = client.gradient(leaf, CLASSES)
        for ours, p in zip(found, model.parameters(), strict=True):
            torch.testing.assert_close(ours, p.grad)
        slopes.append(torch.autograd.grad(found[2].square().sum(), leaf)[0])
    torch.testing.assert_close(*slopes)
    assert slopes[0].abs().sum() > 0
    assert vars(kind).get("apply") is before
    assert checkpoint(torch.sin, x, use_reentrant=reentrant).equal(x.sin())
