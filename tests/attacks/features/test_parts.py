"""The parts of feature inversion: cutting, smoothing, descending, weighing."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from attacks import Knowledge, Problem
from attacks.features.descent import descend
from attacks.features.front import Front, tail_of
from attacks.features.joint import joint_equations
from attacks.features.mixing import read_together
from attacks.features.newton import conditioning
from attacks.features.objective import FeatureMatch
from attacks.features.patchwork import energy, patchwork
from attacks.features.reading import Features, row_space
from attacks.features.smoothing import Smoothed, soft_max_pool
from attacks.tensor.layers import find_linear_pairs


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(48, 20),
        nn.Tanh(),
        nn.Linear(20, 4),
    )


def test_a_model_is_cut_into_front_and_tail():
    model = small()
    (pair,) = find_linear_pairs(model, (1, 9, 9))
    x = torch.randn(3, 1, 9, 9)
    tail = tail_of(model, pair, (1, 9, 9))
    features = Front(model, pair.hidden, torch.float64)(x.double())
    assert tail.complete
    assert features.dtype == torch.float64
    torch.testing.assert_close(tail.module.double()(features), model(x).double())
    assert set(tail.names.values()) == {"4.weight", "4.bias", "6.weight", "6.bias"}


def test_the_front_knows_its_parameters():
    front = Front(small(), "4", torch.float32)
    assert set(front.parameters((1, 9, 9))) == {"0.weight", "0.bias"}


class LooksTwice(nn.Module):
    """Its head sees the image's brightness too."""

    def __init__(self):
        super().__init__()
        self.body = small()

    def forward(self, x):
        return self.body(x) + x.mean((1, 2, 3)).unsqueeze(1)


def test_where_the_rest_sees_more_than_the_features_the_pair_alone_has_to_do():
    model = LooksTwice()
    pair = find_linear_pairs(small(), (1, 9, 9))[0]
    pair = type(pair)(**{**vars(pair), "hidden": "body.4", "outgoing": "body.6"})
    tail = tail_of(model, pair, (1, 9, 9))
    assert not tail.complete
    assert tail.names == {
        "0.weight": "body.4.weight",
        "0.bias": "body.4.bias",
        "2.weight": "body.6.weight",
        "2.bias": "body.6.bias",
    }
    z = torch.randn(2, 48)
    torch.testing.assert_close(tail.module(z), model.body[4:](z))


@pytest.mark.parametrize(
    "call",
    [
        torch.relu,
        nn.functional.relu,
        nn.ReLU(inplace=True),
        lambda x: x.clamp(min=0),
        nn.LeakyReLU(),
        nn.Hardtanh(),
        lambda x: nn.functional.max_pool2d(x, 2),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    ],
)
def test_kinks_are_smoothed_whatever_calls_them(call):
    x = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    exact = call(x.clone())
    errors = []
    for width in (0.3, 0.03, 1e-4):
        with Smoothed(width) as context:
            smooth = call(x.clone())
        errors.append(float((smooth - exact).abs().max()))
        assert context.kinks == 1
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3


@pytest.mark.parametrize("call", [torch.tanh, nn.GELU(), nn.AvgPool2d(2), lambda x: x * 2])
def test_smooth_functions_are_left_alone(call):
    x = torch.randn(2, 3, 6, 6)
    with Smoothed(0.5) as context:
        inside = call(x)
    assert torch.equal(inside, call(x))
    assert context.kinks == 0


def test_soft_maximum_is_smooth_where_the_true_one_jumps():
    x = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]], requires_grad=True)
    (slope,) = torch.autograd.grad(soft_max_pool(0.1, x, 2).sum(), x)
    torch.testing.assert_close(slope[0, 0, 0, 0], slope[0, 0, 0, 1])


def test_every_row_descends_on_its_own():
    generator = torch.Generator().manual_seed(0)
    roots = torch.randn(5, 12, 12, generator=generator, dtype=torch.float64)
    target = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    scale = 10.0 ** torch.arange(-4, 6, 2, dtype=torch.float64)  # problems of very different size

    def evaluate(x):
        gap = torch.einsum("nij,nj->ni", roots, x - target) * scale[:, None]
        slope = 2 * torch.einsum("nij,ni->nj", roots, gap) * scale[:, None]
        return gap.square().sum(1), slope

    start = torch.zeros(5, 12, dtype=torch.float64)
    end = descend(evaluate, start, 400)
    torch.testing.assert_close(end, target, rtol=0, atol=1e-4)
    alone = descend(lambda x: tuple(v[2:3] for v in evaluate(x.expand(5, -1))), start[2:3], 400)
    torch.testing.assert_close(end[2:3], alone)


def test_conditioning_bounds_the_smallest_singular_value():
    J = torch.randn(30, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weakest, spread = conditioning(J.T @ J, 1e-7)
    singular = torch.linalg.svdvals(J)
    assert 0 < weakest <= float(singular[-1])
    assert spread == pytest.approx(float((1 / singular.square()).sum()) ** 0.5)
    J[:, 0] = J[:, 1]
    assert conditioning(J.T @ J, 1e-7)[0] == 0


@pytest.mark.parametrize("coupled", [False, True])
def test_joint_equations_hold_at_the_truth_and_have_the_jacobian_they_claim(coupled):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(128, 40), nn.Tanh(), nn.Linear(40, 3)
    ).double()
    inputs, labels = torch.randn(2, 1, 6, 6, dtype=torch.float64), torch.tensor([0, 2])
    loss = nn.functional.cross_entropy(model(inputs), labels)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    gradient = {n: g for (n, _), g in zip(model.named_parameters(), grads, strict=True)}
    problem = Problem(model, gradient, (1, 6, 6), "cross_entropy", Knowledge(), torch.Generator())
    (pair,) = find_linear_pairs(model, (1, 6, 6))
    features = model[:3](inputs).detach()
    equations = joint_equations(problem, pair, (1, 6, 6), features, row_space(problem, pair, 2))
    equations = replace(equations, coupled=coupled)
    truth = inputs.flatten(1)
    for rows in equations.residual(truth):
        assert rows.norm() < 1e-9
    move = 1e-6 * torch.randn(2, 36, dtype=torch.float64)
    start = truth + 0.01 * torch.randn(2, 36, dtype=torch.float64)
    change = [
        (a - b).flatten()
        for a, b in zip(
            equations.residual(start + move), equations.residual(start - move), strict=True
        )
    ]
    normal, _ = equations.normal_equations(start, equations.residual(start))
    moved = float(2 * move.flatten() @ normal @ (2 * move.flatten()))
    assert moved == pytest.approx(float(torch.cat(change).square().sum()), rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 16)])
def test_a_patchwork_takes_from_each_candidate_what_is_right_in_it(shape):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(shape[0], 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, 4),
    )
    front = Front(model, "4", torch.float32)
    x = torch.rand(2, *shape)
    match = FeatureMatch(front, shape, front(x), float(front(x).norm(dim=1).mean()))
    left, right = x.clone(), x.clone()
    left[..., :6, :6] += 1
    right[..., 10:, 10:] -= 1
    candidates = [left.flatten(1), right.flatten(1)]
    energies = [energy(match, c, 0.1) for c in candidates]
    assert energies[0].shape == (2, x[0].numel())
    joined = patchwork(candidates, energies)
    gaps = [(c - x.flatten(1)).norm(dim=1) for c in (*candidates, joined)]
    assert (gaps[2] < 0.2 * torch.minimum(gaps[0], gaps[1])).all()
    assert torch.equal(patchwork(candidates[:1], energies[:1]), candidates[0])


def saturated(activation, width=64):
    """Features that differ by little, errors of one label that differ by less."""
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Sigmoid(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(100, width),
        activation(),
        nn.Linear(width, 24),
        activation(),
        nn.Linear(24, 5),
    )
    inputs, labels = torch.rand(4, 1, 10, 10), torch.tensor([0, 3, 3, 1])
    loss = nn.functional.cross_entropy(model(inputs), labels)
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    names = [n for n, _ in model.named_parameters()]
    gradient = dict(zip(names, slopes, strict=True))
    problem = Problem(
        model, gradient, (1, 10, 10), "cross_entropy", Knowledge(), torch.Generator().manual_seed(0)
    )
    pair = find_linear_pairs(model, (1, 10, 10))[0]
    with torch.no_grad():
        return problem, pair, model[:4](inputs).double(), labels


def nothing_read(rank):
    return Features(
        values=torch.zeros(0, 100, dtype=torch.float64),
        certified=torch.zeros(0, dtype=torch.bool),
        residual=torch.zeros(0),
        labels=None,
        complete=False,
        batch_size=None,
        bound=float("inf"),
        info={"rank": rank},
    )


def test_features_that_are_too_much_alike_are_read_together():
    problem, pair, features, labels = saturated(nn.Sigmoid)
    found = read_together(
        problem, pair, tail_of(problem.model, pair, problem.input_shape), nothing_read(4)
    )
    assert found.complete
    assert not found.certified.any()
    gap = torch.cdist(features, found.values) / (features - features.mean(0)).norm(dim=1)[:, None]
    error, nearest = gap.min(1)
    assert error.max() < 0.2
    assert sorted(nearest.tolist()) == [0, 1, 2, 3]
    assert torch.equal(found.labels[nearest], labels)


@pytest.mark.parametrize(("activation", "rank"), [(nn.ReLU, 4), (nn.Sigmoid, 40)])
def test_what_cannot_be_read_together_is_left_as_it_was(activation, rank):
    problem, pair, _, _ = saturated(activation)
    given = nothing_read(rank)
    assert (
        read_together(problem, pair, tail_of(problem.model, pair, problem.input_shape), given)
        is given
    )
