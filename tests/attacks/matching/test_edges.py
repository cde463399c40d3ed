"""Descents that meet no finite number, are interrupted, or cannot be made: said, not filled in."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

import attacks
from attacks import Interrupted, NotApplicable
from attacks.matching import core
from attacks.matching.client import Client
from attacks.matching.derivatives import check_derivatives
from attacks.matching.optimizers import LBFGS, Adam

ATTACKS = {
    "deep_leakage": partial(attacks.DeepLeakage, 30, restarts=2),
    "inverting_gradients": partial(attacks.InvertingGradients, 30, restarts=2),
    "see_through": partial(attacks.SeeThroughGradients, 30),
    "feature_matching": partial(attacks.FeatureMatching, 30, restarts=2),
}
every = pytest.mark.parametrize("make", ATTACKS.values(), ids=ATTACKS)
KNOWN = {"input_shape": (1, 6, 6), "knows": {"batch_size": 2}}


def network(*front, activation=nn.GELU):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), *front, nn.Linear(36, 40), activation(), nn.Linear(40, 3))


def observed(model):
    value = nn.functional.cross_entropy(model(torch.rand(2, 1, 6, 6)), torch.tensor([0, 2]))
    return list(torch.autograd.grad(value, list(model.parameters())))


def spoiled(value, slopes, kind):
    if kind == "slope":
        return value, [torch.full_like(s, math.nan) for s in slopes]
    return float(kind), slopes


@pytest.mark.parametrize("kind", ["nan", "inf", "slope"])
@every
def test_a_descent_that_leaves_the_numbers_returns_its_best_and_says_so(make, kind, monkeypatch):
    original, values = core.Match.evaluate, []

    def evaluate(self, *args):
        value, slopes = original(self, *args)
        values.append(value)
        return spoiled(value, slopes, kind) if len(values) > 5 else (value, slopes)

    monkeypatch.setattr(core.Match, "evaluate", evaluate)
    model = network()
    found = make().run(model, observed(model), **KNOWN)
    assert len(found) == 2
    assert found.inputs.isfinite().all()
    assert found.residual.isfinite().all()
    assert found.info["objective"] <= min(values[:5])
    assert found.info["undefined"] > 0
    assert f"{found.info['undefined']} of {found.info['evaluations']} " in found.info["reason"]
    assert "the best finite one is returned" in found.info["reason"]


class Root(nn.Module):
    def forward(self, x):
        return (x - 100).sqrt()


@every
def test_where_nothing_is_finite_nothing_is_returned(make):
    model = network()
    gradient = observed(model)
    model.insert(1, Root())
    if make.func is attacks.FeatureMatching:
        pytest.skip("it reads its features at the layer, and finds none")
    found = make().run(model, gradient, **KNOWN)
    assert len(found) == 0
    assert found.info["undefined"] == found.info["evaluations"] > 0
    assert "no candidate is returned" in found.info["reason"]


@pytest.mark.parametrize("make", [attacks.InvertingGradients, attacks.SeeThroughGradients])
def test_steps_that_are_far_too_long(make):
    model = network()
    found = make(30, lr=1e30).run(model, observed(model), **KNOWN)
    assert len(found) == 2
    assert found.inputs.isfinite().all()
    assert "not finite numbers" in found.info["reason"]


@every
def test_a_search_among_finite_numbers_says_nothing_of_them(make):
    model = network()
    found = make().run(model, observed(model), **KNOWN)
    assert not {"undefined", "reason"} & set(found.info)


@pytest.mark.parametrize("optimizer", [Adam(0.1), LBFGS()])
def test_an_optimiser_ends_where_the_value_is_nan(optimizer):
    calls = []

    def evaluate(unknowns):
        calls.append(unknowns[0].clone())
        return math.nan, [torch.ones(3)]

    x = torch.ones(3)
    optimizer.minimise(evaluate, [x], 50, None)
    assert len(calls) == 1
    assert torch.equal(x, torch.ones(3))


def test_lbfgs_steps_back_from_where_the_value_is_nan():
    def evaluate(unknowns):
        (x,) = unknowns  # NaN below 0, lowest at 1
        value = float((x - x.log()).sum())
        return value, [1 - 1 / x]

    x = torch.tensor([3e-3, 40.0]).double()
    LBFGS().minimise(evaluate, [x], 200, None)
    best = evaluate([x])[0]
    assert best == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize("last", [4, 11, 15])
def test_an_interrupted_group_of_seeds_returns_the_best_of_all(last, monkeypatch):
    original, values = core.Match.evaluate, []

    def evaluate(self, *args):
        if len(values) == last:
            raise Interrupted
        value, slopes = original(self, *args)
        values.append(value)
        return value, slopes

    monkeypatch.setattr(core.Match, "evaluate", evaluate)
    model = network()
    attack = attacks.SeeThroughGradients(10, seeds=2, stages=1)  # a seed takes 11 evaluations
    found = attack.run(model, observed(model), **KNOWN)
    assert found.info["interrupted"] is True
    assert found.info["objective"] == pytest.approx(min(values))


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_see_through_takes_no_more_steps_than_it_is_given(iterations):
    model = network()
    attack = attacks.SeeThroughGradients(iterations, seeds=1, stages=4)
    found = attack.run(model, observed(model), **KNOWN)
    assert 0 < found.info["evaluations"] <= iterations


class Marked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return slope * ctx.saved_tensors[0].cos()


class Sine(nn.Module):
    def forward(self, x):
        return Marked.apply(x)


@every
@pytest.mark.parametrize(
    ("activation", "kind"), [(Sine, "Sine"), (partial(nn.CrossMapLRN2d, 2), "CrossMapLRN2d")]
)
def test_a_layer_without_a_second_derivative_is_named(make, activation, kind):
    front = nn.Linear(36, 36), nn.Unflatten(1, (4, 3, 3)), activation(), nn.Flatten()
    model = network(*front)
    sentence = rf"The layer '3' \({kind}\) has no second derivative"
    with pytest.raises(NotApplicable, match=sentence):
        make().run(model, observed(model), **KNOWN)


def test_before_the_first_parameter_one_derivative_is_enough():
    model = network(nn.Unflatten(1, (4, 3, 3)), nn.CrossMapLRN2d(2), nn.Flatten())
    found = attacks.DeepLeakage(10).run(model, observed(model), **KNOWN)
    assert found.info["objective"] < 2


def test_a_loss_without_a_second_derivative_is_named():
    def ctc(output, labels):
        lengths = torch.tensor([len(output)]), torch.tensor([1])
        logs = output.log_softmax(1)[:, None]
        return nn.functional.ctc_loss(logs, labels[None, :1] + 1, *lengths)

    model = network()
    value = ctc(model(torch.rand(2, 1, 6, 6)), torch.tensor([0, 1]))
    gradient = list(torch.autograd.grad(value, list(model.parameters())))
    knows = {"labels": torch.tensor([0, 1])}
    with pytest.raises(NotApplicable, match="The clients' loss has no second derivative"):
        attacks.InvertingGradients(2).run(
            model, gradient, input_shape=(1, 6, 6), loss=ctc, knows=knows
        )


def broken(output, labels):
    raise KeyError("of its own")


def test_a_gradient_that_cannot_be_computed_is_refused():
    client = Client(network(), ("1.weight",), broken)
    with pytest.raises(NotApplicable, match=r"The client's gradient cannot be.*: 'of its own'\."):
        check_derivatives(client, (2, 1, 6, 6), torch.tensor([0, 1]))


def test_labels_that_are_no_classes_are_refused():
    model = network()
    knows = {"labels": torch.tensor([0, 7])}
    with pytest.raises(NotApplicable, match="Target 7 is out of bounds"):
        attacks.InvertingGradients(2).run(
            model, observed(model), input_shape=(1, 6, 6), knows=knows
        )


def test_a_batch_that_the_model_does_not_take_in_its_mode_is_refused():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    gradient = observed(model)
    with pytest.raises(NotApplicable, match="takes no batch of 1 in training mode: Expected more"):
        attacks.InvertingGradients(2).run(
            model, gradient, input_shape=(1, 6, 6), knows={"batch_size": 1}
        )


@pytest.mark.parametrize(
    ("statistics", "sentence"),
    [
        ({"9": (torch.zeros(8), torch.ones(8))}, "batchnorm_statistics names '9', no module"),
        ({"2": (torch.zeros(8), torch.ones(1))}, r"of '2' have shapes \(8,\) and \(1,\)"),
        ({"2": ([0.0] * 7, [1.0] * 7)}, "the module has 8 channels"),
    ],
    ids=["name", "unlike", "channels"],
)
def test_statistics_that_fit_no_layer_are_refused(statistics, sentence):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    knows = {"batch_size": 2, "batchnorm_statistics": statistics}
    with pytest.raises(ValueError, match=sentence):
        attacks.SeeThroughGradients(2).run(
            model, observed(model), input_shape=(1, 6, 6), knows=knows
        )


def test_statistics_of_a_layer_that_is_not_used_are_refused():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.norm = nn.Linear(36, 3), nn.BatchNorm1d(8)

        def forward(self, x):
            return self.used(x.flatten(1))

    torch.manual_seed(0)
    model = Skips()
    value = nn.functional.cross_entropy(model(torch.rand(2, 1, 6, 6)), torch.tensor([0, 2]))
    weight, bias = torch.autograd.grad(value, list(model.used.parameters()))
    gradient = {"used.weight": weight, "used.bias": bias, "norm.weight": None, "norm.bias": None}
    knows = {"batch_size": 2, "batchnorm_statistics": {"norm": (torch.zeros(8), torch.ones(8))}}
    with pytest.raises(NotApplicable, match="No module that batchnorm_statistics names is used"):
        attacks.SeeThroughGradients(2).run(model, gradient, input_shape=(1, 6, 6), knows=knows)
