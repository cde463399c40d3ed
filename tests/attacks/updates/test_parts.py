"""The parts of the attack on several steps, each held to what it says it does."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks.tensor.activation import probe
from attacks.updates.client import followed
from attacks.updates.epochs import schedules
from attacks.updates.least_squares import Scaling, levenberg_marquardt, linearised
from attacks.updates.membership import greedy, misfits, walk_epoch
from attacks.updates.swaps import exchanges, swapped
from tests.attacks.updates.test_updates import epoch, same, simulated, two_epochs


@given(k=st.integers(1, 5), size=st.integers(1, 5), seed=st.integers(0, 100))
def test_greedy_fills_every_step_and_prefers_high_scores(k, size, seed):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(k).repeat_interleave(size)
    assert (
        greedy(torch.rand(k * size, k, generator=generator), size).bincount().tolist() == [size] * k
    )
    clear = torch.nn.functional.one_hot(truth, k) + 0.4 * torch.rand(k * size, k)
    assert torch.equal(greedy(clear, size), truth)


@given(n=st.integers(1, 64), steps=st.integers(2, 12))
def test_schedules_use_every_sample_once_an_epoch(n, steps):
    for found in schedules(n, steps):
        assert found.epochs > 1
        assert found.batches > 1
        assert found.epochs * found.batches == steps
        assert found.batches * found.size == n


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_both_jacobian_products_come_from_one_jacobian(seed):
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(7, 4, generator=generator, dtype=torch.float64)

    def function(x):
        return torch.sin(A @ x) * x.square().sum()

    x, p = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    r = torch.randn(7, generator=generator, dtype=torch.float64)
    value, push, pull = linearised(function, x)
    J = torch.autograd.functional.jacobian(function, x)
    assert torch.allclose(value, function(x))
    assert torch.allclose(push(p), J @ p)
    assert torch.allclose(pull(r), J.T @ r)


def test_levenberg_marquardt_finds_a_zero_and_never_gets_worse():
    target = torch.tensor([1.0, 1.0], dtype=torch.float64)

    def rosenbrock(x):
        return torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])

    plain = Scaling(lambda p: p, lambda r: r)
    start = torch.tensor([0.7, 0.6], dtype=torch.float64)
    x, error = levenberg_marquardt(rosenbrock, start, lambda _: plain, 1e-12)
    assert error < 1e-8
    assert torch.allclose(x, target, atol=1e-6)
    x, error = levenberg_marquardt(rosenbrock, start, lambda _: plain, 1e-12, iterations=2)
    assert error <= float(rosenbrock(start).norm())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_follow_as_in_torch(momentum):
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=momentum)
    step, total = {}, torch.zeros(3, dtype=torch.float64)
    for t in range(4):
        gradient = torch.arange(3, dtype=torch.float64) + t
        parameter.grad = gradient.clone()
        optimizer.step()
        step = followed(step, {"w": gradient}, momentum)
        total = total + step["w"]
    assert torch.allclose(-parameter.detach(), total)


@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU])
def test_the_first_batch_fits_at_the_first_parameters_and_the_others_do_not(activation):
    client, _, truth, space = simulated(activation, epoch(12, 3))
    fit = misfits(client, [client.parameters()], truth.points, space.Q, probe(activation()))
    best, labels = fit.min(1)
    assert float(best[:4].max()) < 1e-6
    assert float(best[4:].min()) > 1e-3
    assert torch.equal(labels[:4], truth.labels[:4])


@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU])
def test_an_epoch_is_walked_in_its_order(activation):
    client, _, truth, space = simulated(activation, epoch(12, 3))
    order, labels = walk_epoch(client, truth.points, space.Q, probe(activation()), 3)
    assert [sorted(row) for row in order.tolist()] == truth.order.tolist()
    assert torch.equal(labels, truth.labels)


def test_columns_under_each_label_add_up_to_the_update():
    client, observed, truth, _ = simulated(nn.Tanh, same(6, 3))
    shares = truth.points.new_full(truth.order.shape, 1 / 6)
    states = client.path(truth.points, truth.labels, truth.order, shares)[:-1]
    columns = client.class_columns(states, truth.points)[:, torch.arange(6), truth.labels] / 6
    assert torch.allclose(columns.sum(0).T @ truth.points, observed["0.weight"], atol=1e-12)


@given(n=st.sampled_from([4, 6, 8]), epochs=st.integers(1, 3))
def test_exchanges_keep_every_sample_once_an_epoch_and_differ(n, epochs):
    order = torch.stack([torch.randperm(n) for _ in range(epochs)]).reshape(epochs * 2, n // 2)
    seen = {tuple(order.flatten().tolist())}
    for new in exchanges(order, 2):
        rows = new.reshape(epochs, n)
        assert torch.equal(rows.sort(1).values, torch.arange(n).expand(epochs, n))
        if epochs == 1:
            assert int((new != order).sum()) == 2
            assert tuple(new.flatten().tolist()) not in seen
        seen.add(tuple(new.flatten().tolist()))
    assert epochs > 1 or len(seen) == 1 + (n // 2) ** 2


def test_samples_in_wrong_steps_find_their_places():
    client, observed, truth, space = simulated(nn.GELU, two_epochs(8, 4))
    i, j = 1, 3  # apart in both epochs; one exchange alone does not mend it
    wrong = truth.order.clone()
    wrong[truth.order == i], wrong[truth.order == j] = j, i
    assert not torch.equal(wrong.sort(1).values, truth.order.sort(1).values)
    near = truth.points + 1e-4 * torch.randn_like(truth.points)
    guess = swapped(
        client, observed, replace(truth, points=near, order=wrong), space.last, 2, goal=1e-6
    )
    assert torch.equal(guess.order.sort(1).values, truth.order.sort(1).values)
