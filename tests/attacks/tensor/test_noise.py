"""Noisy and pruned gradients: completion, whitened search, likelihood fit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks import Knowledge, TensorAttack
from attacks.base import Problem
from attacks.labels import output_layer
from attacks.linear import linear_calls
from attacks.tensor.activation import probe
from attacks.tensor.attack import layer_gradient, readable_pair
from attacks.tensor.certificate import expected_phi
from attacks.tensor.completion import complete, known_entries, spread
from attacks.tensor.counted import LabelCounts, counted
from attacks.tensor.equation import SampleEquation
from attacks.tensor.fitting import Refinement
from attacks.tensor.layers import find_linear_pairs
from attacks.tensor.likelihood import Likelihood, ascend, tail_of
from attacks.tensor.peeling import Found
from attacks.tensor.subspace import gradient_space, noisy_rank
from attacks.tensor.whitened import WhitenedEquation
from tests.attacks.tensor.planted import plant


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), rank=st.integers(1, 6), share=st.floats(0.5, 0.7))
def test_completion_restores_what_was_pruned_and_finds_the_rank(seed, rank, share):
    whole = normal(90, rank, seed=seed) @ normal(rank, 60, seed=seed + 1)
    cut = whole.abs().flatten().quantile(1 - share)
    pruned = torch.where(whole.abs() < cut, 0, whole)
    known = known_entries(pruned)
    done = complete(pruned, known, torch.Generator().manual_seed(seed))
    assert done is not None
    assert done.rank == rank
    sure = done.matrix[done.rows][:, done.columns]
    truth = whole[done.rows][:, done.columns]
    assert len(truth) > 60
    assert (sure - truth).norm() < 1e-6 * truth.norm()


def test_a_completion_that_predicts_nothing_is_not_believed():
    noise = normal(80, 60)
    pruned = torch.where(noise.abs() < 0.7, 0, noise)
    known = known_entries(pruned)
    assert known is not None
    assert complete(pruned, known, torch.Generator().manual_seed(0)) is None


def test_fewer_determined_rows_than_the_rank_complete_nothing():
    matrix = normal(20, 4) @ normal(4, 30, seed=1)
    known = torch.zeros_like(matrix, dtype=torch.bool)
    known[:3] = True
    known[3:, 0] = True
    V = torch.linalg.svd(matrix, full_matrices=False).Vh[:4].T
    rows, columns = torch.ones(20, dtype=torch.bool), torch.ones(30, dtype=torch.bool)
    assert spread(matrix, known, rows, columns, V) is None
    known[3:] = True
    done = spread(matrix, known, rows, columns, V)
    assert done is not None
    assert torch.allclose(done[0] @ done[1].T, matrix, atol=1e-6)


def test_zero_rows_and_columns_alone_are_no_pruning():
    matrix = normal(20, 15)
    matrix[3], matrix[:, 5] = 0, 0
    assert known_entries(matrix) is None


@pytest.mark.parametrize("level", [0.01, 0.05, 0.2])
def test_white_noise_is_told_from_samples(level):
    signal = normal(300, 9) @ torch.diag(10.0 ** -torch.linspace(0, 1, 9).double()) @ normal(9, 120)
    noisy = signal + level * signal.square().mean().sqrt() * normal(300, 120, seed=1)
    assert noisy_rank(torch.linalg.svdvals(noisy), 300, otherwise=0) == 9


def test_a_layer_smaller_than_the_batch_shows_no_white_noise():
    assert plant(nn.GELU(), batch=6, width=400, noise=0.05).space.white
    assert not plant(nn.GELU(), batch=30, width=16).space.white


def test_noise_that_is_not_white_is_left_to_the_gap():
    spectrum = torch.logspace(0, -8, 100, dtype=torch.float64)
    assert noisy_rank(spectrum, 200, otherwise=-1) == -1


def test_whitened_residual_counts_in_units_of_the_noise():
    planted = plant(nn.GELU(), batch=6, width=400, noise=0.05)
    space, points = planted.space, planted.points
    points = points / (points @ space.last)[:, None]
    arguments = (space.Q, space.U, planted.layer.weight @ space.V, space.last)
    whitened = WhitenedEquation(*arguments, space.noise / space.S)
    state = whitened.evaluate(points, planted.activation.slope)

    def in_units(state):
        ratio = state.residual.norm(dim=1) / (state.column @ space.Q).norm(dim=1)
        return ratio / expected_phi(space, state.column)

    assert torch.allclose(state.phi, in_units(state), rtol=1e-6)
    plain = SampleEquation(*arguments).evaluate(points, planted.activation.slope)
    assert bool((state.phi <= in_units(plain) * (1 + 1e-6)).all())
    wrong = whitened.evaluate(points.roll(1, 0) * 0.5 + points * 0.5, planted.activation.slope)
    assert float(wrong.phi.min()) > 1.3 * float(state.phi.max())


def batch_problem(activation, deep=False, noise=0.0):
    torch.manual_seed(3)
    middle = [nn.Linear(60, 12), activation()] if deep else []
    model = nn.Sequential(
        nn.Linear(10, 60), activation(), *middle, nn.Linear(12 if deep else 60, 4)
    ).double()
    x, y = normal(5, 10), torch.arange(5) % 4
    loss = nn.functional.cross_entropy(model(x), y)
    names = [name for name, _ in model.named_parameters()]
    gradient = dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))
    for i, (name, g) in enumerate(gradient.items()):
        gradient[name] = g + noise * g.square().mean().sqrt() * normal(*g.shape, seed=10 + i)
    return model, gradient, x, y


def likelihood_of(model, gradient, y):
    pair = find_linear_pairs(model)[0]
    tail = tail_of(model, pair, (10,))
    assert tail is not None
    first = torch.cat([gradient["0.weight"], gradient["0.bias"][:, None]], 1)
    weight = torch.cat([model[0].weight, model[0].bias[:, None]], 1).detach()
    others = {k: v for k, v in gradient.items() if not k.startswith("0.")}
    return Likelihood(
        tail=tail,
        weight=weight,
        first=first,
        first_precision=1 / first.square().mean().sqrt(),
        others=others,
        other_precisions={k: 1 / v.square().mean().sqrt() for k, v in others.items()},
        targets=nn.functional.one_hot(y, 4).double(),
        shares=torch.full((len(y),), 1 / len(y), dtype=torch.float64),
        last=torch.eye(11, dtype=torch.float64)[-1],
    )


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("activation", [nn.GELU, nn.Tanh])
def test_the_fit_ends_at_the_true_batch(activation, deep):
    model, gradient, x, y = batch_problem(activation, deep)
    likelihood = likelihood_of(model, gradient, y)
    truth = torch.cat([x, torch.ones(5, 1)], 1).double()
    assert sum(float(part.norm()) for part in likelihood.misfit(truth)) < 1e-8
    start = truth.clone()
    start[:, :-1] += 0.05 * normal(5, 10, seed=7)
    end = ascend(likelihood, start, steps=30, inner=60, enough=0.0)
    assert (end.inputs - truth).norm() < 1e-6 * truth.norm()


def test_the_fit_is_never_worse_than_its_start():
    model, gradient, _, y = batch_problem(nn.ReLU, noise=0.3)
    likelihood = likelihood_of(model, gradient, y)
    for seed in range(5):
        start = torch.cat([3 * normal(5, 10, seed=seed), torch.ones(5, 1)], 1).double()
        before = sum(float(part.square().sum()) for part in likelihood.misfit(start))
        assert ascend(likelihood, start, steps=4).misfit <= before * (1 + 1e-12)


def test_a_model_that_reads_its_input_twice_has_no_tail():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(10, 60), nn.GELU(), nn.Linear(60, 10))

        def forward(self, x):
            return self.body(x) + x

    model = Skip()
    pair = find_linear_pairs(nn.Sequential(nn.Linear(10, 60), nn.GELU(), nn.Linear(60, 10)))[0]
    moved = type(pair)("body.0", "body.2", probe(nn.GELU()), True, True, 10)
    assert tail_of(model, moved, (10,)) is None


def attacked(activation, corrupt):
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(60, 500), activation(), nn.Linear(500, 10))
    x, y = normal(6, 60).float(), torch.arange(6)
    loss = nn.functional.cross_entropy(model(x), y)
    names = [name for name, _ in model.named_parameters()]
    values = torch.autograd.grad(loss, list(model.parameters()))
    gradient = {n: corrupt(g, i) for i, (n, g) in enumerate(zip(names, values, strict=True))}

    def worst(**settings):
        found = TensorAttack(**settings).run(model, gradient)
        error = nearest(x, found.inputs)
        return found, error.values, (found.labels[error.indices] == y).all()

    return worst


def test_the_fit_improves_on_the_search_in_noise():
    def noisy(g, i):
        return g + 0.03 * g.square().mean().sqrt() * normal(*g.shape, seed=i).float()

    run = attacked(nn.GELU, noisy)
    found, error, right = run()
    assert len(found) == 6
    assert right
    assert float(error.max()) < 0.1
    assert float(error.square().mean()) < 0.7 * float(run(fit=False)[1].square().mean())
    assert not found.certified.any()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_half_of_a_gradient_is_enough(activation):
    def pruned(g, _):
        return torch.where(g.abs() < g.abs().median(), 0, g)

    found, error, right = attacked(activation, pruned)()
    assert right
    assert float(error.max()) < 1e-3
    assert found.certified.all()


def test_inputs_whose_gradients_were_left_out_are_found_with_the_others():
    def pruned(g, i):
        g = torch.where(g.abs() < g.abs().median(), 0, g)
        if i == 0:
            g[:, 7] = 0
            g[:480, 30] = 0
        return g

    found, error, right = attacked(nn.GELU, pruned)()
    assert right
    assert float(error.max()) < 1e-4
    assert found.certified.all()


def many(activation, level, seed=0, batch=20):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(200, 900), activation(), nn.Linear(900, 10))
    spectrum = 6 * torch.arange(1, 201) ** -0.5  # as uneven as that of images
    x, y = (spectrum * normal(batch, 200, seed=seed)).float(), torch.arange(batch) % 7
    loss = nn.functional.cross_entropy(model(x), y)
    names = [name for name, _ in model.named_parameters()]
    values = torch.autograd.grad(loss, list(model.parameters()))
    gradient = {
        n: g + level * g.square().mean().sqrt() * normal(*g.shape, seed=seed + i).float()
        for i, (n, g) in enumerate(zip(names, values, strict=True))
    }
    return model, gradient, x, y


def nearest(x, inputs):
    """(relative error, index) of what comes closest to each x."""
    return (torch.cdist(x, inputs.to(x)) / x.norm(dim=1, keepdim=True)).min(1)


def assert_found(found, x, y, tolerance):
    error = nearest(x, found.inputs)
    assert len(found) == len(x)
    assert float(error.values.median()) < tolerance
    assert sorted(error.indices.tolist()) == list(range(len(x)))
    assert (found.labels[error.indices] == y).all()


@pytest.mark.parametrize("level", [0.2, 0.3])
def test_a_batch_that_drowns_in_noise_is_fitted_from_its_label_counts(level):
    model, gradient, x, y = many(nn.Softplus, level)
    found = TensorAttack().run(model, gradient)
    assert found.info["counted"]
    assert not found.certified.any()
    assert found.batch_size == len(x)
    assert_found(found, x, y, 0.2)


def test_label_counts_alone_are_a_start():
    model, gradient, x, y = many(nn.GELU, 0.1)
    problem, pair, layer, space = readings(model, gradient)
    work = Refinement(problem, pair, layer, space, tail_of(model, pair, (200,)))
    nobody = Found(*(space.V.new_zeros(0, n) for n in (900, space.U.shape[1], space.rank)))
    batch = counted(work, problem, nobody, enough=3.0)
    assert batch.misfit < 3
    error = nearest(x, batch.inputs[:, :200])
    assert float(error.values.max()) < 0.2
    assert (batch.labels[error.indices] == y).all()


def test_plausible_counts_come_in_order_and_add_up():
    model, gradient, _, y = many(nn.GELU, 0.1)
    problem, *_ = readings(model, gradient)
    layer = output_layer(linear_calls(model, (200,)))
    some = LabelCounts(problem, layer, 18).first(20)
    assert torch.equal(some[0][1], torch.bincount(y, minlength=10))
    assert all(int(counts.sum()) == 20 and int(counts.min()) >= 0 for _, counts in some)
    assert [far for far, _ in some] == sorted(far for far, _ in some)
    assert len({tuple(counts.tolist()) for _, counts in some}) == len(some) > 3


def test_granted_labels_leave_no_doubt():
    model, gradient, _, y = many(nn.GELU, 0.1)
    problem, *_ = readings(model, gradient, Knowledge(labels=y))
    counts = LabelCounts(problem, output_layer(linear_calls(model, (200,))), 18)
    assert list(counts.sizes()) == [20]
    (only,) = counts.first(20)
    assert torch.equal(only[1], torch.bincount(y, minlength=10))


def readings(model, gradient, knows=None):
    generator = torch.Generator().manual_seed(0)
    problem = Problem(model, gradient, (200,), "cross_entropy", knows or Knowledge(), generator)
    pair = readable_pair(problem)
    layer = layer_gradient(problem, pair)
    return problem, pair, layer, gradient_space(layer)
