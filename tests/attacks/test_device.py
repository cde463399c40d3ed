"""Every attack on an accelerator: no tensor strays to the CPU, and the results are the CPU's.

The rows of the one table, and some problems that lead where those do not.
"""

from __future__ import annotations

import copy
from dataclasses import fields

import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import Knowledge, LocalWork
from fl_sim.local import batchnorm_statistics
from tests.attacks.features.test_attack import images, narrow
from tests.attacks.features.test_tokens import made
from tests.attacks.tensor.test_published import Cubic, paper_instance
from tests.attacks.test_table import TABLE, convolutional, problem, shortened
from tests.attacks.updates.test_updates import epoch, mean_gradient, same, two_epochs
from tests.pretend_device import DEVICE, PretendGenerator, pretending


def gradient_of(model, inputs, target, loss="cross_entropy"):
    value = getattr(nn.functional, loss)(model(inputs), target)
    grads = torch.autograd.grad(value, list(model.parameters()))
    return {n: g for (n, _), g in zip(model.named_parameters(), grads, strict=True)}


def network(activation, width=96, **settings):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(20, width, **settings), activation(), nn.Linear(width, 5, **settings)
    )


def tensor(activation, changed=None, loss="cross_entropy", width=96, **settings):
    model = network(activation, width, **settings)
    target = torch.arange(4) if loss == "cross_entropy" else torch.randn(4, 5)
    gradient = gradient_of(model, torch.randn(4, 20), target, loss)
    if changed is not None:
        gradient = {name: changed(g) for name, g in gradient.items()}
    return attacks.TensorAttack(), model, gradient, {"loss": loss.removesuffix("_loss")}


def noisy(g):
    return g + 0.03 * g.square().mean().sqrt() * torch.randn(g.shape)


def pruned(g):
    return torch.where(g.abs() < g.abs().median(), 0, g)


def updates(activation, order, lr=0.01):
    model, count = network(activation, 160), len(order.unique())
    gradient = mean_gradient(model, torch.randn(count, 20), torch.arange(count) % 5, order, lr)
    return attacks.UpdateTensorAttack(), model, gradient, {"local": LocalWork(len(order), lr)}


def features(model):
    attack = attacks.FeatureInversion(10, 5, widths=(1.0, 0.1), levels=(0.3, -0.5), rounds=1)
    return (
        attack,
        model,
        gradient_of(model, images(2), torch.arange(2)),
        {"input_shape": (1, 10, 10)},
    )


def pooled():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(200, 96),
        nn.ReLU(),
        nn.Linear(96, 4),
    )


def transformer():
    model, _, _, gradient = made(1)
    return attacks.FeatureInversion(20, 5), model, gradient, {"input_shape": (1, 12, 12)}


def published():
    model, gradient, _, _ = paper_instance(Cubic, m=2000)
    return attacks.PublishedTensorAttack(), model, gradient, {"loss": "mse"}


def granted(name, **settings):
    """What a threat model grants comes from the CPU."""
    row = next(row for row in TABLE if type(row.attack()).__name__ == name)
    model, gradient, inputs, labels = problem(row)
    knows = Knowledge(
        labels=labels,
        data_range=(torch.zeros(1, 1, 1), torch.ones(1, 1, 1)),
        batchnorm_statistics=batchnorm_statistics(model, inputs),
    )
    attack = shortened(row.attack())
    vars(attack).update(settings)
    return attack, model, gradient, {"input_shape": (1, 8, 8), "knows": knows}


def untold(row):
    model, gradient, _, _ = problem(row)
    return shortened(row.attack()), model, gradient, {"input_shape": (1, 8, 8)}


CASES = {f"{type(row.attack()).__name__} {i}": (untold, row) for i, row in enumerate(TABLE)} | {
    "ReLU": (tensor, nn.ReLU),
    "leaky": (tensor, nn.LeakyReLU),
    "tanh, squared loss": (tensor, nn.Tanh, None, "mse_loss"),
    "no biases": (lambda: tensor(nn.GELU, bias=False),),
    "ReLU, no biases": (lambda: tensor(nn.ReLU, width=48, bias=False),),
    "noisy": (tensor, nn.GELU, noisy),
    "noisy ReLU": (tensor, nn.ReLU, noisy),
    "pruned": (tensor, nn.GELU, pruned),
    "pruned ReLU": (tensor, nn.ReLU, pruned),
    "PublishedTensorAttack": (published,),
    "updates, an epoch": (updates, nn.GELU, epoch(4, 2)),
    "updates, one batch": (updates, nn.ReLU, same(4, 2)),
    "updates, epochs": (updates, nn.GELU, two_epochs(4, 4)),
    "features, pooled": (lambda: features(pooled()),),
    "features, joined": (lambda: features(narrow()),),
    "features, transformer": (transformer,),
    "granted": (granted, "InvertingGradients"),
    "granted statistics": (granted, "SeeThroughGradients"),
    "granted range": (granted, "CocktailPartyAttack"),
    "granted labels": (granted, "DeepLeakage"),
    "local steps": (lambda: granted("InvertingGradients", local_steps=2),),
    "image prior": (lambda: granted("FeatureMatching", image_prior=True),),
}


SLOW = {"updates, one batch", "updates, epochs"}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[pytest.mark.slow] * (name in SLOW))
        for name, case in CASES.items()
    ],
)
def test_an_attack_stays_on_the_device_and_finds_the_same(case):
    make, *arguments = case
    attack, model, gradient, settings = make(*arguments)
    here = attack.run(copy.deepcopy(model), gradient, **settings)
    with pretending():
        model = model.to(DEVICE)
        gradient = {name: g.to(DEVICE) for name, g in gradient.items()}
        found = attack.run(model, gradient, **settings)
    for field in fields(found):
        value, expected = getattr(found, field.name), getattr(here, field.name)
        if isinstance(value, Tensor):
            assert value.device == DEVICE, field.name
            torch.testing.assert_close(
                value.cpu(), expected, msg=lambda m, f=field: f"{f.name}: {m}"
            )
    assert not any(isinstance(value, Tensor) for value in found.info.values())
    assert found.batch_size == here.batch_size
    assert (found.labels is None) == (here.labels is None)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: type(row.attack()).__name__)
def test_a_generator_of_the_device_will_do(row):
    attack, model, gradient, settings = untold(row)
    with pretending():
        model = model.to(DEVICE)
        gradient = {name: g.to(DEVICE) for name, g in gradient.items()}
        one, two = (
            attack.run(
                model, gradient, generator=PretendGenerator().manual_seed(5), **settings
            ).inputs
            for _ in range(2)
        )
    assert torch.equal(one, two)


def test_labels_are_inferred_on_the_device():
    model, gradient, _, labels = problem(next(row for row in TABLE if row.model is convolutional))
    with pretending():
        gradient = {name: g.to(DEVICE) for name, g in gradient.items()}
        found = attacks.infer_labels(model.to(DEVICE), gradient, input_shape=(1, 8, 8))
    assert found.labels.device == found.shares.device == DEVICE
    assert torch.equal(found.labels.cpu(), labels.sort().values)


@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU])
def test_identifiability_is_the_same_on_the_device(activation):
    model = network(activation)
    here = attacks.identifiability(model)
    with pretending():
        found = attacks.identifiability(model.to(DEVICE))
    assert found.explanation == here.explanation
    assert found.condition == pytest.approx(here.condition)


def test_an_empty_reconstruction_is_on_one_device():
    with pretending():
        found = attacks.Reconstruction(torch.zeros(0, 3, device=DEVICE))
    assert found.certified.device == found.residual.device == DEVICE
