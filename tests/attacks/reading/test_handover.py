"""Gradients and grants as people have them: understood, or refused in a sentence with the name."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from attacks import (
    AnalyticAttack,
    DeepLeakage,
    Knowledge,
    NotApplicable,
    TensorAttack,
    infer_labels,
    validate_gradient,
)
from attacks.batch_size import estimate_batch_size


def instance(batch=4, outputs=5, activation=nn.GELU):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 128), activation(), nn.Linear(128, outputs))
    x, y = torch.randn(batch, 30), torch.randint(outputs, (batch,))
    loss = nn.functional.cross_entropy(model(x), y)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return model, {n: g for (n, _), g in zip(model.named_parameters(), grads, strict=True)}, x, y


WRONG = {
    "too few in a list": (lambda g: list(g.values())[:2], "lists 2 tensors; the model has 4"),
    "a tensor": (lambda g: g["0.weight"], "gradient is a Tensor, not a mapping"),
    "a name": (lambda g: "gradient.pt", "gradient is a str, not a mapping"),
    "a name is missing": (
        lambda g: {k: v for k, v in g.items() if k != "2.bias"},
        "lacks '2.bias'",
    ),
    "a name too many": (lambda g: g | {"3.weight": g["2.bias"]}, "'3.weight', unknown"),
    "a wrong shape": (
        lambda g: g | {"2.bias": torch.zeros(4)},
        r"'2\.bias' has shape \(4,\), the parameter \(5,\)",
    ),
    "not a number": (lambda g: g | {"2.bias": g["2.bias"] * torch.nan}, "'2.bias' contains NaN"),
    "infinite": (lambda g: g | {"2.bias": g["2.bias"] / 0}, "'2.bias' contains infinite"),
    "integers": (lambda g: g | {"2.bias": torch.ones(5, dtype=torch.int64)}, "dtype torch.int64"),
    "words": (lambda g: g | {"2.bias": ["a", "b"]}, "'2.bias' is a list, not an array of floats"),
    "two values of one": (
        lambda g: g | {"module.2.bias": g["2.bias"] + 1},
        "'2.bias' is there twice",
    ),
}


@pytest.mark.parametrize("way", WRONG)
def test_a_gradient_that_cannot_be_meant_names_the_parameter(way):
    change, message = WRONG[way]
    model, gradient, _, _ = instance()
    with pytest.raises(ValueError, match=message):
        TensorAttack().run(model, change(gradient))


def test_missing_values_are_left_out_and_names_come_back_bare():
    model, gradient, _, _ = instance()
    wrapped = {f"module._orig_mod.{k}": v.numpy() for k, v in gradient.items()}
    wrapped["module._orig_mod.2.bias"] = None
    found = validate_gradient(nn.DataParallel(model), wrapped)
    assert list(found) == ["0.weight", "0.bias", "2.weight"]
    torch.testing.assert_close(found["0.bias"], gradient["0.bias"])


def test_tied_parameters_have_one_gradient_under_either_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 6)
            self.b = self.a

        def forward(self, x):
            return self.b(torch.tanh(self.a(x)))

    model = Tied()
    gradient = {f"b.{k}": torch.ones_like(p) for k, p in model.a.named_parameters()}
    assert list(validate_gradient(model, gradient)) == ["a.weight", "a.bias"]


def test_lazy_layers_without_shape_are_named():
    model = nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(2))
    with pytest.raises((ValueError, NotApplicable), match=r"'0\.weight' has no shape yet"):
        TensorAttack().run(model, {})


GRANTS = {
    "batch_size=0": ({"batch_size": 0}, "batch_size=0 is no whole number of at least 1"),
    "batch_size=-2": ({"batch_size": -2}, "batch_size=-2"),
    "batch_size=2.5": ({"batch_size": 2.5}, r"batch_size=2\.5"),
    "batch_size=True": ({"batch_size": True}, "batch_size=True"),
    "too many labels": ({"labels": [1, 2, 3], "batch_size": 2}, "3 labels .* batch_size=2"),
    "labels of words": ({"labels": ["cat"]}, "labels"),
    "no labels": ({"labels": []}, "labels"),
    "a reversed range": ({"data_range": (1.0, 0.0)}, "data_range"),
    "a range of one": ({"data_range": (1.0,)}, "data_range"),
    "an unknown name": ({"truth": 1}, "'truth', which is none of labels, batch_size"),
}


@pytest.mark.parametrize("way", GRANTS)
def test_a_grant_that_cannot_be_meant_names_the_value(way):
    grants, message = GRANTS[way]
    model, gradient, _, _ = instance()
    with pytest.raises(ValueError, match=message):
        TensorAttack().run(model, gradient, knows=grants)


@pytest.mark.parametrize("labels", [[1, 4, 2], np.array([1, 4, 2]), torch.tensor([1, 4, 2]).int()])
def test_labels_come_in_any_form(labels):
    granted = Knowledge.of({"labels": labels}).labels
    assert granted.dtype == torch.int64
    assert granted.tolist() == [1, 4, 2]


@pytest.mark.parametrize("shape", [(31,), (5, 7), (1, 1, 1, 30, 1)])
def test_a_shape_that_does_not_fit_is_named(shape):
    model, gradient, _, _ = instance()
    refused = rf"does not accept inputs of shape {re.escape(str(shape))}|several rows|not handed"
    with pytest.raises(NotApplicable, match=refused):
        TensorAttack().run(model, gradient, input_shape=shape)


@pytest.mark.parametrize("shape", [(0,), (-3,), (), "30", 30, (3.0,)])
def test_a_shape_that_is_none_is_named(shape):
    model, gradient, _, _ = instance()
    with pytest.raises(ValueError, match="input_shape"):
        TensorAttack().run(model, gradient, input_shape=shape)


def test_a_granted_batch_size_is_believed_and_not_estimated(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("estimated although granted")

    model, gradient, _, y = instance(1)
    for module in ("attacks.batch_size", "attacks.labels"):
        monkeypatch.setattr(f"{module}.estimate_batch_size", refuse)
    found = AnalyticAttack().run(model, gradient, knows={"batch_size": 1})
    assert found.certified.all()
    assert found.batch_size is None
    assert DeepLeakage(1).run(model, gradient, knows={"labels": y}).batch_size is None
    assert infer_labels(model, gradient, batch_size=1).labels.tolist() == y.tolist()
    assert estimate_batch_size is not refuse


COMPUTED = {
    "prune": lambda layer: prune.random_unstructured(layer, "weight", 0.3),
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
}


@pytest.mark.parametrize("way", COMPUTED)
@pytest.mark.parametrize("attack", [TensorAttack(), AnalyticAttack()], ids=["tensor", "analytic"])
def test_a_weight_that_is_computed_is_named(way, attack):
    model, _, x, y = instance()
    COMPUTED[way](model[0])
    loss = nn.functional.cross_entropy(model(x), y)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    with pytest.raises(NotApplicable, match="'0' computes its weight from other parameters"):
        attack.run(model, grads, input_shape=(30,))


def test_frozen_layers_whose_gradient_is_sent_are_read():
    model, gradient, x, _ = instance()
    model.requires_grad_(False)
    found = TensorAttack().run(model, gradient)
    assert found.certified.all()
    assert not any(p.requires_grad for p in model.parameters())
    assert (torch.cdist(x, found.inputs) / x.norm(dim=1)).min(1).values.max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU])
def test_half_precision_shows_the_batch_size_and_every_sample(dtype, activation):
    model, _, x, y = instance(activation=activation)
    model, x = model.to(dtype), x.to(dtype)
    loss = nn.functional.cross_entropy(model(x), y)
    found = TensorAttack().run(model, torch.autograd.grad(loss, list(model.parameters())))
    assert found.inputs.dtype == dtype
    assert found.batch_size == len(found) == 4
    gap = torch.cdist(x.double(), found.inputs.double()) / x.double().norm(dim=1, keepdim=True)
    assert gap.min(1).values.max() < 1e-2
