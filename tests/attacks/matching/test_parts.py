"""The parts of the matching core against autograd and against problems with known minima."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from attacks.matching.client import Client, mean_loss, private_model
from attacks.matching.core import Best, Match, Start, descend
from attacks.matching.kernels import SMALL, count_products, suited_kernels
from attacks.matching.objective import ROUNDING, cosine, logarithm, squared
from attacks.matching.optimizers import LBFGS, Adam
from attacks.matching.priors import (
    BatchStatistics,
    Features,
    anchored,
    mean_square,
    total_variation,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_slope_is_autograds(function, at):
    """Closed-form derivative against central differences."""
    value, slope = function(at)
    direction = draw(*at.shape, seed=99)
    step = 1e-6
    above, below = (function(at + sign * step * direction)[0] for sign in (1, -1))
    assert float((slope * direction).sum()) == pytest.approx(
        float((above - below) / (2 * step)), rel=1e-4, abs=1e-9
    )
    assert value.dim() == 0


@given(seed=st.integers(0, 1000), length=st.integers(2, 30))
@pytest.mark.parametrize("distance", [cosine, squared])
def test_distances(distance, seed, length):
    target = draw(length, seed=seed + 1)
    measure = distance(target.split(1))

    def flat(gradient):
        found = measure(gradient.split(1))
        return torch.tensor(found.value, dtype=torch.float64), found.factor * torch.cat(found.slope)

    assert_slope_is_autograds(flat, draw(length, seed=seed))
    value, slope = flat(target.clone())
    assert abs(float(value)) < 1e-12
    assert float(slope.abs().max()) < 1e-12


def test_the_logarithm_of_a_distance_is_finite_where_the_gradients_agree():
    t = draw(9)
    measure = logarithm(cosine([t]))
    assert measure([t.clone()]).value == pytest.approx(math.log(ROUNDING))
    apart = draw(9, seed=1)
    assert measure([apart]).value == pytest.approx(math.log(cosine([t])([apart]).value))


def test_the_cosine_ignores_length():
    g, t = draw(9), draw(9, seed=1)
    assert cosine([t])([g]).value == pytest.approx(cosine([7 * t])([3 * g]).value)


@pytest.mark.parametrize(
    "prior", [total_variation, mean_square, anchored(draw(2, 3, 5, 4, seed=5))]
)
def test_priors(prior):
    assert_slope_is_autograds(prior, draw(2, 3, 5, 4))


def test_total_variation_of_a_step_edge():
    image = torch.zeros(1, 1, 4, 4)
    image[..., 2:] = 3
    assert float(total_variation(image)[0]) == pytest.approx(4 * 3 / 16)
    assert float(total_variation(torch.randn(2, 7))[0]) == 0


def network(activation=nn.GELU):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), activation(), nn.Linear(12, 3)).double()


def test_one_local_step_is_the_gradient_and_several_are_the_mean_of_the_path():
    model = network()
    names = tuple(n for n, _ in model.named_parameters())
    inputs, labels, lr = draw(4, 6), torch.tensor([0, 1, 2, 1]), 0.3
    trained = private_model(model, torch.float64)
    for _ in range(3):
        loss = mean_loss(trained(inputs), labels, "cross_entropy")
        grads = torch.autograd.grad(loss, list(trained.parameters()))
        with torch.no_grad():
            for p, g in zip(trained.parameters(), grads, strict=True):
                p -= lr * g
    simulated = Client(model, names, "cross_entropy", 3, lr).gradient(inputs, labels)
    for g, before, after in zip(simulated, model.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(g, (before - after) / (3 * lr))
    once = Client(model, names, "cross_entropy").gradient(inputs, labels)
    single = Client(model, names, "cross_entropy", 2, 0.0).gradient(inputs, labels)
    for a, b in zip(once, single, strict=True):
        torch.testing.assert_close(a, b)


def test_soft_labels_agree_with_hard_ones():
    output, labels = draw(5, 3), torch.tensor([0, 2, 1, 1, 0])
    logits = 1000 * nn.functional.one_hot(labels, 3).double()
    torch.testing.assert_close(
        mean_loss(output, logits, "cross_entropy"), mean_loss(output, labels, "cross_entropy")
    )


def test_a_private_model_leaves_the_callers_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Dropout(0.5))
    private = private_model(model, torch.float64)
    assert model[1].inplace
    assert not private[1].inplace
    assert model[2].training
    assert not private[2].training
    assert model[0].weight.dtype == torch.float32


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("distance", [cosine, squared, lambda t: logarithm(cosine(t))])
def test_the_objectives_derivative(distance, steps):
    model = network()
    client = Client(model, ("0.weight", "2.bias"), "mse", steps, 0.2)
    target = [draw(12, 6), draw(3, seed=4)]
    match = Match(client, distance(target), [(0.3, mean_square)])
    inputs, labels = draw(2, 6, seed=1), draw(2, 3, seed=2)

    def by(index):
        def function(at):
            leaves = [inputs.clone(), labels.clone()]
            leaves[index] = at
            leaves = [leaf.detach().requires_grad_(True) for leaf in leaves]
            value, slopes = match.evaluate(*leaves, leaves)
            return torch.tensor(value, dtype=torch.float64), slopes[index]

        return function

    assert_slope_is_autograds(by(0), inputs)
    assert_slope_is_autograds(by(1), labels)


def rosenbrock(unknowns):
    x, y = unknowns
    value = ((1 - x) ** 2 + 100 * (y - x * x) ** 2).sum()
    return float(value), [
        -2 * (1 - x) - 400 * x * (y - x * x),
        200 * (y - x * x),
    ]


def test_lbfgs_crosses_rosenbrocks_valley_within_its_budget():
    unknowns = [torch.tensor([-1.2]).double(), torch.tensor([1.0]).double()]
    calls = []

    def counted(current):
        calls.append(1)
        return rosenbrock(current)

    LBFGS().minimise(counted, unknowns, 150, None)
    assert rosenbrock(unknowns)[0] < 1e-10
    assert len(calls) <= 150


@pytest.mark.parametrize("signed", [True, False])
def test_adam_stays_in_bounds_and_reaches_the_nearest_point(signed):
    goal = torch.tensor([0.3, 5.0, -5.0])
    x = [torch.zeros(3)]

    def evaluate(current):
        gap = current[0] - goal
        return float(gap.square().sum()), [2 * gap]

    Adam(0.1, signed).minimise(evaluate, x, 400, (torch.tensor(-1.0), torch.tensor(1.0)))
    torch.testing.assert_close(x[0], torch.tensor([0.3, 1.0, -1.0]), atol=2e-3, rtol=0)


def test_unsigned_adam_is_torchs():
    ours, theirs = [torch.ones(4)], torch.ones(4, requires_grad=True)
    scale = torch.tensor([1.0, 0.1, 10.0, 3.0])
    optimizer = torch.optim.Adam([theirs], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (scale * theirs**2).sum().backward()
        optimizer.step()
    # 3 of 8 steps are before the first division of the step size
    evaluated = []

    def evaluate(current):
        evaluated.append(current[0].clone())
        return 0.0, [2 * scale * current[0]]

    Adam(0.1, signed=False).minimise(evaluate, ours, 8, None)
    torch.testing.assert_close(evaluated[3], theirs.detach())


def test_the_best_candidate_is_kept_not_the_last():
    model = network()
    client = Client(model, ("0.weight",), "mse")
    inputs, targets = draw(1, 6), draw(1, 3, seed=3)
    target = [client.gradient(inputs, targets)[0].detach()]

    class Wander:
        def minimise(self, evaluate, unknowns, iterations, bounds):
            for distance in (1.0, 0.1, 2.0):
                unknowns[0].copy_(inputs + distance)
                evaluate(unknowns)

    best = Best()
    match = Match(client, squared(target))
    descend(match, Start([torch.zeros(1, 6).double()], targets), Wander(), 3, None, best)
    torch.testing.assert_close(best.inputs, inputs + 0.1)
    assert best.evaluations == 3


def test_batch_statistics_vanish_for_the_batch_itself():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 2))
    model = model.double()
    inputs = draw(5, 2, 6, 6)
    seen = model[0](inputs).detach()
    known = {"1": (seen.mean((0, 2, 3)), seen.var((0, 2, 3), unbiased=False))}
    prior = BatchStatistics(model, known)
    model(inputs)
    assert prior.penalty().item() < 1e-12
    model(inputs + 1)
    assert prior.penalty().item() > 0.1


def test_features_are_compared_by_direction_and_only_where_known():
    model = network()
    inputs = draw(3, 6)
    known = 2 * nn.functional.gelu(model[0](inputs)).detach()[:2]
    prior = Features(model, "2", known)
    model(inputs)
    assert prior.penalty().item() < 1e-12
    model(inputs.flip(0))
    assert prior.penalty().item() > 1e-3


def test_small_networks_convolve_without_onednn_and_get_the_same_gradient():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(144, 5))
    x, labels = torch.rand(2, 3, 8, 8), torch.tensor([1, 4])
    assert count_products(model, x) == 2 * 4 * 36 * 27
    client = Client(model, ("0.weight",), "cross_entropy")
    usual = client.gradient(x, labels)[0]
    before = torch.backends.mkldnn.enabled
    with suited_kernels(SMALL - 1):
        assert not torch.backends.mkldnn.enabled
        own = client.gradient(x, labels)[0]
    assert torch.backends.mkldnn.enabled == before
    assert torch.allclose(usual, own, atol=1e-6)
    with suited_kernels(SMALL):
        assert torch.backends.mkldnn.enabled == before
