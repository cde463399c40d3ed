"""The one table: every attack on a problem it is made for, and what all of them promise.

A new attack adds a row: how it is made, the network it reads, the batch size, what it is granted,
and the median relative error it has to reach.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import attacks
from attacks import Attack, Interrupted, Knowledge, Reconstruction


def mlp(activation=nn.ReLU):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 160), activation(), nn.Linear(160, 5))


def smooth_mlp():
    return mlp(nn.GELU)


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(128, 40),
        nn.GELU(),
        nn.Linear(40, 5),
    )


def batch_normalised():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(512, 5),
    )


def imprinted():
    """All units of the first layer see the mean, and begin to at the quantiles of its values."""
    model = mlp()
    first, second = model[1], model[3]
    quantiles = torch.special.ndtri((torch.arange(160) + 0.5) / 160)
    with torch.no_grad():
        first.weight.fill_(1 / (64 * 160))
        first.bias.copy_(-(0.5 + 0.036 * quantiles) / 160)
        second.weight.copy_(torch.randn(5, 1).expand(5, 160))
    return model


@dataclass(frozen=True)
class Row:
    attack: Callable[[], Attack]
    model: Callable[[], nn.Module]
    batch: int
    error: float
    knows: tuple[str, ...] = ()
    labels: bool = True


TABLE = [
    Row(attacks.TensorAttack, smooth_mlp, 6, 1e-4),
    Row(attacks.UpdateTensorAttack, smooth_mlp, 6, 1e-4),
    Row(attacks.SpearAttack, mlp, 6, 1e-4),
    Row(attacks.PeelingAttack, mlp, 6, 1e-4),
    Row(attacks.AnalyticAttack, smooth_mlp, 1, 1e-4),
    Row(attacks.ImprintAttack, imprinted, 4, 1e-3),
    Row(attacks.FeatureInversion, convolutional, 2, 1e-2),
    Row(lambda: attacks.CocktailPartyAttack(500), smooth_mlp, 2, 0.5, labels=False),
    Row(lambda: attacks.DeepLeakage(600), convolutional, 1, 0.05),
    Row(lambda: attacks.DeepLeakage(600, labels="infer"), convolutional, 1, 0.05),
    Row(lambda: attacks.InvertingGradients(300), convolutional, 2, 0.3),
    Row(lambda: attacks.SeeThroughGradients(300, tv=1e-3), batch_normalised, 2, 0.5),
    Row(lambda: attacks.FeatureMatching(300, tv=1e-3), convolutional, 2, 0.3),
]

rows = pytest.mark.parametrize("row", TABLE, ids=lambda row: type(row.attack()).__name__)


def problem(row, seed=0):
    torch.manual_seed(seed)
    model = row.model()
    inputs, labels = torch.rand(row.batch, 1, 8, 8), torch.randperm(5)[: row.batch]
    if row.batch > 5:
        labels = torch.randint(5, (row.batch,))
    value = nn.functional.cross_entropy(model(inputs), labels)
    grads = torch.autograd.grad(value, list(model.parameters()))
    gradient = {n: g for (n, _), g in zip(model.named_parameters(), grads, strict=True)}
    return model, gradient, inputs, labels


def errors(found, inputs):
    distance = torch.cdist(inputs.flatten(1), found.inputs.flatten(1))
    return (distance / inputs.flatten(1).norm(dim=1, keepdim=True)).min(1)


def run(row, model, gradient, **settings):
    return row.attack().run(model, gradient, input_shape=(1, 8, 8), **settings)


@rows
def test_reconstructs_without_being_told_anything(row):
    model, gradient, inputs, labels = problem(row)
    found = run(row, model, gradient)
    error, nearest = errors(found, inputs)
    assert error.median() < row.error
    assert found.batch_size == row.batch
    assert 0 < len(found) <= row.batch
    assert found.inputs.shape[1:] == (1, 8, 8)
    assert found.inputs.dtype == torch.float32
    if row.labels:
        assert torch.equal(found.labels[nearest].sort().values, labels.sort().values)


@rows
def test_leaves_model_gradient_and_global_randomness_alone(row):
    model, gradient, _, _ = problem(row)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = {name: value.clone() for name, value in gradient.items()}
    training, random = model.training, torch.get_rng_state()
    brief = shortened(row.attack())
    brief.run(model, gradient, input_shape=(1, 8, 8))
    assert model.training == training
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in gradient.items())


@rows
def test_one_seed_one_result(row):
    model, gradient, _, _ = problem(row)
    brief = shortened(row.attack())
    one, two = (
        brief.run(
            model,
            gradient,
            input_shape=(1, 8, 8),
            generator=torch.Generator().manual_seed(5),
        )
        for _ in range(2)
    )
    assert torch.equal(one.inputs, two.inputs)


@rows
def test_repr_names_the_hyperparameters(row):
    assert repr(row.attack()).startswith(type(row.attack()).__name__ + "(")


def shortened(attack):
    """The same attack with few iterations, if it has any."""
    if hasattr(attack, "iterations"):
        attack.iterations = 8
    return attack


MATCHING = [row for row in TABLE if hasattr(row.attack(), "local_steps")]


@pytest.mark.parametrize("row", MATCHING, ids=lambda row: type(row.attack()).__name__)
def test_an_interruption_returns_the_best_so_far(row, monkeypatch):
    from attacks.matching import core

    calls = []
    original = core.Match.evaluate

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) > 20:
            raise Interrupted
        return original(self, *args)

    monkeypatch.setattr(core.Match, "evaluate", interrupted)
    model, gradient, _, _ = problem(row)
    found = run(row, model, gradient)
    assert found.info["interrupted"] is True
    assert len(found) == row.batch
    assert found.info["objective"] == pytest.approx(float(found.residual[0]))


def test_an_interruption_before_the_descent_ends_the_attack(monkeypatch):
    def interrupted(self, *args, **settings):
        return Reconstruction(torch.zeros(0, 128), info={"interrupted": True})

    monkeypatch.setattr(attacks.TensorAttack, "run", interrupted)
    model, gradient, _, _ = problem(next(r for r in TABLE if r.model is convolutional))
    found = attacks.FeatureMatching().run(model, gradient, input_shape=(1, 8, 8))
    assert found.info["interrupted"] is True
    assert found.info["evaluations"] == len(found) == 0


@pytest.mark.parametrize("row", MATCHING, ids=lambda row: type(row.attack()).__name__)
def test_a_granted_range_bounds_pixels(row):
    model, gradient, _, _ = problem(row)
    knows = Knowledge(data_range=(torch.tensor(0.2), torch.tensor(0.6)))
    attack = shortened(row.attack())
    if isinstance(attack, attacks.DeepLeakage):
        pytest.skip("L-BFGS has no bounds; the range only shapes its start")
    found = attack.run(model, gradient, input_shape=(1, 8, 8), knows=knows)
    assert found.inputs.min() >= 0.2
    assert found.inputs.max() <= 0.6


@pytest.mark.parametrize("row", MATCHING, ids=lambda row: type(row.attack()).__name__)
def test_granted_labels_say_the_batch_size_too(row):
    model, gradient, _, labels = problem(replace(row, batch=3))
    knows = Knowledge(labels=labels)
    found = shortened(row.attack()).run(model, gradient, input_shape=(1, 8, 8), knows=knows)
    assert len(found) == 3
    assert found.info["labels"] == "granted"
    assert torch.equal(found.labels.sort().values, labels.sort().values)


@pytest.mark.parametrize("row", MATCHING, ids=lambda row: type(row.attack()).__name__)
def test_several_local_steps_are_simulated(row):
    attack = shortened(row.attack())
    attack.local_steps = 2
    model, gradient, _, _ = problem(row)
    found = attack.run(model, gradient, input_shape=(1, 8, 8))
    assert torch.isfinite(found.inputs).all()


@pytest.mark.parametrize("row", MATCHING, ids=lambda row: type(row.attack()).__name__)
def test_targets_of_squared_loss_are_optimised(row):
    torch.manual_seed(0)
    model, inputs = row.model(), torch.rand(2, 1, 8, 8)
    value = nn.functional.mse_loss(model(inputs), torch.randn(2, 5))
    grads = torch.autograd.grad(value, list(model.parameters()))
    gradient = {n: g for (n, _), g in zip(model.named_parameters(), grads, strict=True)}
    found = shortened(row.attack()).run(
        model, gradient, input_shape=(1, 8, 8), loss="mse", knows=Knowledge(batch_size=2)
    )
    assert found.inputs.shape == (2, 1, 8, 8)
    assert found.labels.shape == (2, 5)


def test_the_restart_with_the_best_objective_wins():
    row = next(r for r in TABLE if isinstance(r.attack(), attacks.InvertingGradients))
    model, gradient, _, _ = problem(row)
    attack = attacks.InvertingGradients(10, restarts=5)
    found = attack.run(model, gradient, input_shape=(1, 8, 8))
    lowest = found.info["restarts"]
    assert len(lowest) == 5
    assert found.info["objective"] == pytest.approx(min(lowest))
    assert min(lowest) < max(lowest)


def test_batch_statistics_help_when_they_are_granted():
    row = next(r for r in TABLE if isinstance(r.attack(), attacks.SeeThroughGradients))
    torch.manual_seed(0)
    model = row.model()
    seen = {}
    model[1].register_forward_pre_hook(lambda module, args: seen.update(x=args[0].detach()))
    inputs, labels = torch.rand(2, 1, 8, 8), torch.tensor([1, 3])
    value = nn.functional.cross_entropy(model(inputs), labels)
    grads = torch.autograd.grad(value, list(model.parameters()))
    gradient = {n: g for (n, _), g in zip(model.named_parameters(), grads, strict=True)}
    x = seen["x"]
    statistics = {"1": (x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False))}
    model[1]._forward_pre_hooks.clear()
    attack = attacks.SeeThroughGradients(60, seeds=1, stages=1)
    knows = Knowledge(batchnorm_statistics=statistics)
    found = attack.run(model, gradient, input_shape=(1, 8, 8), knows=knows)
    assert found.info["batchnorm_layers"] == 1
    # the model's own running average of one batch says the same: it is debiased
    told = attack.run(model, gradient, input_shape=(1, 8, 8))
    assert told.info["batchnorm_layers"] == 1
    torch.testing.assert_close(told.inputs, found.inputs, atol=0.2, rtol=0)
