"""Reading features: searched anew where samples are missed, and what is said where none is read."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from attacks import FeatureInversion, TensorAttack
from attacks.base import Interrupted, Knowledge, Problem
from attacks.features import reading
from attacks.features.diagnosis import response, spoken
from attacks.features.front import tail_of
from attacks.features.newton import repeated
from attacks.tensor.layers import find_linear_pairs


def problem_behind(gain):
    """Four images behind a convolution whose weights are scaled."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(200, 96),
        nn.ReLU(),
        nn.Linear(96, 4),
    )
    with torch.no_grad():
        model[0].weight.mul_(gain)
    inputs = torch.randn(4, 1, 10, 10, generator=torch.Generator().manual_seed(1))
    loss = nn.functional.cross_entropy(model(inputs), torch.tensor([0, 0, 1, 1]))
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    gradient = {n: g for (n, _), g in zip(model.named_parameters(), slopes, strict=True)}
    return Problem(
        model, gradient, (1, 10, 10), "cross_entropy", Knowledge(), torch.Generator().manual_seed(0)
    )


@pytest.fixture
def readable():
    problem = problem_behind(1.0)
    (pair,) = find_linear_pairs(problem.model, (1, 10, 10))
    return problem, pair


def test_a_search_that_missed_samples_is_repeated(readable, monkeypatch):
    problem, pair = readable
    tail, sizes = tail_of(problem.model, pair, (1, 10, 10)), iter([2, 3, 4, 4])
    original = reading._read_once

    def losing(*args):
        whole, n = original(*args), next(sizes)
        parts = {k: getattr(whole, k)[:n] for k in ("values", "certified", "residual", "labels")}
        return replace(whole, **parts, complete=n == 4)

    monkeypatch.setattr(reading, "_read_once", losing)
    assert len(reading.read_features(problem, pair, tail, TensorAttack())) == 4
    assert list(sizes) == [4]  # the complete one ends it
    sizes = iter([3, 2])
    assert len(reading.read_features(problem, pair, tail, TensorAttack(), tries=2)) == 3


def test_a_layer_that_answers_alike_to_all_images_is_named(readable):
    problem, pair = readable
    assert spoken(response(problem, pair, (1, 10, 10))) == ""
    mute = problem_behind(1e-3)
    answer = response(mute, pair, (1, 10, 10))
    assert answer.features < 0.01
    found = FeatureInversion().run(mute.model, mute.gradient, input_shape=(1, 10, 10))
    assert not found.certified.any()
    assert "the layer answers alike" in found.info["reason"]


def test_an_interruption_while_reading_says_so(readable, monkeypatch):
    def stopped(*args, **settings):
        raise Interrupted

    monkeypatch.setattr("attacks.features.attack.read_features", stopped)
    problem, _ = readable
    found = FeatureInversion().run(problem.model, problem.gradient, input_shape=(1, 10, 10))
    assert len(found) == 0
    assert found.info["interrupted"]
    assert "stopped while it read" in found.info["reason"]


def test_the_second_of_two_equal_certified_images_is_a_repetition():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1e-4], [1.0, 0.0]])
    certified = torch.tensor([True, True, True, False])
    assert repeated(x, certified).tolist() == [False, False, True, False]
