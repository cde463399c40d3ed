"""Products that are written as functions are layers all the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from attacks import AnalyticAttack, FeatureInversion, NotApplicable, TensorAttack
from attacks.reading.inputs import drawing
from attacks.reading.modular import modular
from attacks.reading.private import private_copy


class Bare(nn.Module):
    """Weights of its own, and a front that may be lively."""

    def __init__(self, front=None, bias=True):
        super().__init__()
        self.front = front or nn.Identity()
        self.body = nn.Module()
        self.body.W = nn.Parameter(torch.randn(128, 30) / 30**0.5)
        self.body.b = nn.Parameter(torch.randn(128) / 30**0.5) if bias else None
        self.out = nn.Linear(128, 5)

    def forward(self, x):
        h = functional.gelu(functional.linear(self.front(x), self.body.W, self.body.b))
        return functional.linear(h, self.out.weight, bias=self.out.bias)


def gradient_of(model, x, y):
    grads = torch.autograd.grad(functional.cross_entropy(model(x), y), list(model.parameters()))
    return {n: g for (n, _), g in zip(model.named_parameters(), grads, strict=True)}


@pytest.mark.parametrize("bias", [True, False])
def test_bare_parameters_become_layers_that_compute_the_same(bias):
    torch.manual_seed(0)
    model = Bare(bias=bias)
    x, y = torch.randn(4, 30), torch.randint(5, (4,))
    gradient = gradient_of(model, x, y)
    private = private_copy(model)
    rewritten, renamed = modular(private, gradient, drawing(private, (30,)))
    torch.testing.assert_close(rewritten(x), model(x))
    assert len(renamed) == len(gradient) == len(list(rewritten.parameters()))
    again = torch.autograd.grad(
        functional.cross_entropy(rewritten(x), y), list(rewritten.parameters())
    )
    for (name, _), g in zip(rewritten.named_parameters(), again, strict=True):
        torch.testing.assert_close(renamed[name], g)


def test_a_model_of_layers_is_left_as_it_is():
    model = private_copy(nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)))
    gradient = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    assert modular(model, gradient, drawing(model, (6,)))[0] is model


def test_bare_parameters_are_read_exactly_by_every_attack_that_reads_layers():
    torch.manual_seed(0)
    model, x, y = Bare(), torch.randn(4, 30), torch.randint(5, (4,))
    for attack in (TensorAttack(), FeatureInversion()):
        found = attack.run(model, gradient_of(model, x, y), input_shape=(30,))
        assert found.certified.all()
        gap = (torch.cdist(x, found.inputs) / x.norm(dim=1, keepdim=True)).min(1).values
        assert gap.max() < 1e-5
    found = AnalyticAttack().run(model, gradient_of(model, x[:1], y[:1]), input_shape=(30,))
    torch.testing.assert_close(found.inputs, x[:1], rtol=1e-4, atol=1e-5)
    assert found.certified.all()


def test_dropout_in_front_of_bare_parameters_is_not_forgotten():
    torch.manual_seed(0)
    model = Bare(nn.Dropout(0.3)).train()
    x, y = torch.randn(4, 30), torch.randint(5, (4,))
    gradient = gradient_of(model, x, y)
    with pytest.raises(NotApplicable):
        TensorAttack().run(model, gradient, input_shape=(30,))
    found = FeatureInversion(20, 10, (0.3,), rounds=1).run(model, gradient, input_shape=(30,))
    assert len(found) == int(found.features_certified.sum()) == 4
    assert not found.certified.any()
    assert "Exact is what 'body.W' saw" in found.info["reason"]


def test_a_parameter_that_is_used_twice_is_no_layer():
    class Twice(Bare):
        def forward(self, x):
            h = functional.gelu(functional.linear(x, self.body.W, self.body.b))
            return self.out(h) + functional.linear(h, self.body.W.T)[:, :5]

    torch.manual_seed(0)
    model, x, y = Twice(), torch.randn(4, 30), torch.randint(5, (4,))
    with pytest.raises(NotApplicable):
        TensorAttack().run(model, gradient_of(model, x, y), input_shape=(30,))
