"""The exact attack on small networks: everything recovered, everything certified, nothing false."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from attacks import Interrupted, NotApplicable, TensorAttack
from attacks.tensor.search import propose

ACTIVATIONS = [
    nn.ReLU,
    nn.LeakyReLU,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.Softplus,
    nn.Tanh,
    nn.Sigmoid,
]


def batch_gradient(model, inputs, targets, loss="cross_entropy"):
    """Gradient of the mean loss, named like the parameters."""
    function = getattr(nn.functional, loss)
    value = function(model(inputs), targets)
    grads = torch.autograd.grad(value, list(model.parameters()))
    return {n: g for (n, _), g in zip(model.named_parameters(), grads, strict=True)}


def instance(activation, width=256, batch=8, size=40, seed=0, deep=()):
    """A default-initialised network, its batch and its gradient."""
    torch.manual_seed(seed)
    widths = [size, width, *deep, 5]
    layers = [nn.Flatten()]
    for a, b in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(a, b), activation()]
    model = nn.Sequential(*layers, nn.Linear(widths[-2], 5))
    inputs, labels = torch.randn(batch, size), torch.randint(5, (batch,))
    return model, batch_gradient(model, inputs, labels), inputs, labels


def matched(found, inputs):
    """(relative error of every true input, index of its nearest reconstruction)."""
    distance = torch.cdist(inputs.double(), found.inputs.double())
    return (distance / inputs.double().norm(dim=1, keepdim=True)).min(1)


def assert_exact(found, inputs, labels):
    error, nearest = matched(found, inputs)
    assert error.max() < 1e-4
    assert len(found) == len(inputs) == found.batch_size
    assert found.certified.all()
    assert torch.equal(found.labels[nearest], labels)
    assert found.info["gradient_residual"] < 1e-4


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_recovers_a_batch(activation):
    model, gradient, inputs, labels = instance(activation)
    assert_exact(TensorAttack().run(model, gradient), inputs, labels)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_recovers_a_batch_through_a_deep_network(activation):
    model, gradient, inputs, labels = instance(activation, deep=(32, 32))
    assert_exact(TensorAttack().run(model, gradient), inputs, labels)


def test_same_generator_same_result():
    model, gradient, _, _ = instance(nn.GELU)
    a, b = (
        TensorAttack().run(model, gradient, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(a.inputs, b.inputs)


def test_leaves_model_and_global_state_alone():
    model, gradient, _, _ = instance(nn.ReLU)
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    TensorAttack().run(model, gradient)
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("activation", [nn.Identity, lambda: Square()])
def test_refuses_what_cannot_be_identified(activation):
    model, gradient, _, _ = instance(activation)
    with pytest.raises(NotApplicable, match="identifiable"):
        TensorAttack().run(model, gradient)


def test_refuses_a_single_linear_layer():
    model = nn.Sequential(nn.Linear(4, 2))
    gradient = batch_gradient(model, torch.randn(3, 4), torch.tensor([0, 1, 0]))
    with pytest.raises(NotApplicable, match="Linear"):
        TensorAttack().run(model, gradient)


def test_a_batch_larger_than_the_layer_gives_nothing():
    model, gradient, _, _ = instance(nn.GELU, width=16, batch=30)
    found = TensorAttack().run(model, gradient)
    assert len(found) == 0
    assert found.info["reason"]


class Square(nn.Module):
    """Quadratic activation."""

    def forward(self, z):
        return z * z


@pytest.mark.parametrize("activation", [nn.SELU, nn.Softshrink, nn.Mish, nn.Tanhshrink])
def test_recovers_a_batch_behind_other_activations(activation):
    model, gradient, inputs, labels = instance(activation)
    assert_exact(TensorAttack().run(model, gradient), inputs, labels)


@pytest.mark.parametrize("activation", [nn.SELU, nn.Softsign])
def test_recovers_a_batch_behind_sharp_peaks_of_the_slope(activation):
    model, gradient, inputs, labels = instance(activation, width=512, batch=32)
    found = TensorAttack().run(model, gradient)
    assert_exact(found, inputs, labels)
    assert len(found.info["rounds"]) < 20


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Tanh])
def test_recovers_a_batch_without_biases(activation):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(40, 256, bias=False), activation(), nn.Linear(256, 5, bias=False)
    )
    inputs, labels = torch.randn(8, 40), torch.randint(5, (8,))
    found = TensorAttack().run(model, batch_gradient(model, inputs, labels))
    assert_exact(found, inputs, labels)


def test_squared_loss_leaves_an_unbiased_relu_without_a_scale():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 256, bias=False), nn.ReLU(), nn.Linear(256, 2, bias=False))
    gradient = batch_gradient(model, torch.randn(4, 40), torch.randn(4, 2), "mse_loss")
    assert not TensorAttack().run(model, gradient, loss="mse").certified.any()


def test_squared_loss_gives_the_targets():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 256), nn.GELU(), nn.Linear(256, 1))
    inputs, targets = torch.randn(8, 40), torch.randn(8, 1)
    found = TensorAttack().run(
        model, batch_gradient(model, inputs, targets, "mse_loss"), loss="mse"
    )
    error, nearest = matched(found, inputs)
    assert error.max() < 1e-3
    assert torch.allclose(found.labels[nearest], targets[:, 0], atol=1e-2)


@pytest.mark.parametrize("second_label", [1, 3])
def test_copies_are_one_sample_with_a_weight(second_label):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 256), nn.GELU(), nn.Linear(256, 5))
    inputs = torch.randn(8, 40)
    inputs[1] = inputs[0]
    labels = torch.tensor([1, second_label, 2, 3, 4, 0, 0, 2])
    found = TensorAttack().run(model, batch_gradient(model, inputs, labels))
    assert len(found) == 7
    assert found.batch_size == 8
    assert sorted(found.info["multiplicities"]) == [1] * 6 + [2]
    assert found.info["gradient_residual"] < 1e-4


def test_same_result_with_random_starts_only():
    model, gradient, inputs, labels = instance(nn.GELU)
    assert_exact(TensorAttack(tensor_step=False).run(model, gradient), inputs, labels)


def test_nothing_is_certified_under_a_wrong_model():
    model, gradient, _, _ = instance(nn.GELU)
    other, _, _, _ = instance(nn.GELU, seed=1)
    assert not TensorAttack(patience=2).run(other, gradient).certified.any()
    assert model is not other


@pytest.mark.parametrize("factor", [1e-3, 0.1, 5.0])
def test_clipping_hides_nothing(factor):
    """A clipped update is the gradient times an unknown factor, rounded where weights are sent."""
    model, gradient, inputs, _ = instance(nn.GELU)
    generator = torch.Generator().manual_seed(1)
    clipped = {
        name: factor * g
        + 1e-6 * factor * g.square().mean().sqrt() * torch.randn(g.shape, generator=generator)
        for name, g in gradient.items()
    }
    found = TensorAttack().run(model, clipped)
    error, _ = matched(found, inputs)
    assert error.max() < 1e-3
    assert found.info["gradient_factor"] == pytest.approx(factor, rel=1e-3)
    assert found.info["gradient_residual"] < 1e-4


def test_vanishing_gradient_gives_nothing():
    model, gradient, _, _ = instance(nn.ReLU)
    found = TensorAttack().run(model, {k: torch.zeros_like(v) for k, v in gradient.items()})
    assert len(found) == 0
    assert "vanishes" in found.info["reason"]


def test_an_interruption_keeps_what_was_found(monkeypatch):
    model, gradient, _, _ = instance(nn.GELU, batch=24)
    rounds = []

    def interrupt(*args):
        if rounds:
            raise Interrupted
        rounds.append(1)
        return propose(*args)

    monkeypatch.setattr("attacks.tensor.peeling.propose", interrupt)
    found = TensorAttack(candidates=6).run(model, gradient)
    assert found.info["interrupted"]
    assert 0 < len(found) < 24


@pytest.mark.parametrize(("activation", "seed"), [(nn.Sigmoid, 0), (nn.Tanh, 2), (nn.Tanh, 3)])
def test_pairs_of_one_label_that_differ_by_three_per_cent_are_told_apart(activation, seed):
    """And not certified: both might stand for others on the line between them."""
    torch.manual_seed(seed)
    inputs = torch.rand(6, 24)
    step = torch.randn(3, 24) * inputs[0::2].norm(dim=1, keepdim=True) / 24**0.5
    inputs[1::2] = inputs[0::2] + 0.03 * step
    labels = torch.randint(5, (3,)).repeat_interleave(2)
    model = nn.Sequential(nn.Linear(24, 192), activation(), nn.Linear(192, 5))
    found = TensorAttack().run(model, batch_gradient(model, inputs, labels))
    assert len(found) == 6
    assert matched(found, inputs)[0].max() < 3e-3
    assert not found.certified.any()
