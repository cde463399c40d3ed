"""Several local steps: the client is simulated, and what it would send is what it sent."""

import copy

import pytest
import torch
from torch import nn

from attacks import LocalWork, NotApplicable, TensorAttack, UpdateTensorAttack
from attacks.base import Problem
from attacks.tensor.attack import layer_gradient, readable_pair
from attacks.tensor.subspace import gradient_space
from attacks.updates.client import reduced_client, reduced_update
from attacks.updates.finish import Hypothesis, fixed_point, gauss_newton, misfit
from fl_sim.display import Display
from fl_sim.scenario import run_scenario


def network(activation, inputs=60, width=300):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(inputs, width), activation(), nn.Linear(width, 6))


def samples(count, inputs=60, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, inputs, generator=generator)
    return x, torch.randint(6, (count,), generator=generator)


def mean_gradient(model, inputs, labels, order, lr, momentum=0.0):
    """Clients take float32 steps; the server divides what they moved by lr and steps."""
    work = copy.deepcopy(model)
    optimizer = torch.optim.SGD(work.parameters(), lr=lr, momentum=momentum)
    for chosen in order:
        optimizer.zero_grad()
        nn.functional.cross_entropy(work(inputs[chosen]), labels[chosen]).backward()
        optimizer.step()
    moved = zip(model.named_parameters(), work.parameters(), strict=True)
    scale = lr * len(order)
    return {n: (p.detach().double() - q.detach().double()) / scale for (n, p), q in moved}


def epoch(count, steps):
    return torch.arange(count).reshape(steps, -1)


def same(count, steps):
    return torch.arange(count).repeat(steps, 1)


def two_epochs(count, steps):
    generator = torch.Generator().manual_seed(0)
    walks = [torch.randperm(count, generator=generator).reshape(steps // 2, -1) for _ in range(2)]
    return torch.cat(walks)


def took(order):
    size, count = order.shape[1], len(order.unique())
    epochs = order.numel() // count
    return "one batch" if size == count else f"{epochs} epochs" if epochs > 1 else "one epoch"


def worst_error(found, inputs):
    distance = torch.cdist(inputs.double(), found.inputs.double()).min(1).values
    return float((distance / inputs.double().norm(dim=1)).max())


CASES = [
    (nn.GELU, epoch(12, 3), 0.05),
    (nn.Tanh, epoch(8, 4), 0.05),
    (nn.GELU, same(8, 2), 0.01),
    (nn.GELU, same(8, 4), 0.01),
    (nn.ReLU, same(8, 2), 0.01),
    (nn.ReLU, same(8, 4), 0.01),
    (nn.ReLU, same(8, 4), 0.1),
    (nn.ReLU, epoch(8, 2), 0.01),
    (nn.ReLU, epoch(16, 4), 0.01),
    (nn.GELU, two_epochs(8, 4), 0.05),
    (nn.ReLU, two_epochs(8, 4), 0.01),
]


@pytest.mark.parametrize(("activation", "order", "lr"), CASES)
def test_every_sample_of_several_steps_is_read_and_certified(activation, order, lr):
    count, steps = len(order.unique()), len(order)
    inputs, labels = samples(count)
    model = network(activation)
    gradient = mean_gradient(model, inputs, labels, order, lr)
    found = UpdateTensorAttack().run(model, gradient, local=LocalWork(steps, lr))
    assert len(found) == count
    assert worst_error(found, inputs) < 1e-3
    assert found.certified.all()
    near = torch.cdist(inputs.double(), found.inputs.double()).argmin(1)
    assert torch.equal(found.labels[near], labels)
    assert found.info["steps_took"] == took(order)


@pytest.mark.parametrize("order", [epoch(8, 4), same(8, 3)])
def test_momentum_is_followed_if_it_is_public(order):
    inputs, labels = samples(8)
    model = network(nn.Tanh)
    gradient = mean_gradient(model, inputs, labels, order, 0.02, momentum=0.9)
    known = LocalWork(len(order), 0.02, momentum=0.9)
    found = UpdateTensorAttack().run(model, gradient, local=known)
    assert worst_error(found, inputs) < 1e-3
    assert found.certified.all()


def test_adam_is_said_to_be_out_of_reach():
    model = network(nn.GELU)
    inputs, labels = samples(4)
    gradient = mean_gradient(model, inputs, labels, same(4, 1), 0.1)
    with pytest.raises(NotApplicable, match="adam are no plain sums of gradients"):
        UpdateTensorAttack().run(model, gradient, local=LocalWork(1, 0.1, optimizer="adam"))


def test_without_unrolling_the_same_update_is_read_worse():
    inputs, labels = samples(8)
    model = network(nn.GELU)
    gradient = mean_gradient(model, inputs, labels, same(8, 4), 0.05)
    local = LocalWork(4, 0.05)
    plain = UpdateTensorAttack(unroll=False).run(model, gradient, local=local)
    unrolled = UpdateTensorAttack().run(model, gradient, local=local)
    assert worst_error(unrolled, inputs) < 1e-3
    assert not len(plain) or worst_error(plain, inputs) > 10 * worst_error(unrolled, inputs)


def test_one_step_is_the_plain_attack():
    inputs, labels = samples(6)
    model = network(nn.GELU)
    gradient = mean_gradient(model, inputs, labels, same(6, 1), 0.1)
    one = UpdateTensorAttack(patience=5).run(model, gradient, local=LocalWork(1, 0.1))
    other = TensorAttack().run(model, gradient)
    assert torch.equal(one.inputs, other.inputs)


def test_a_wrong_learning_rate_is_not_certified():
    inputs, labels = samples(8)
    model = network(nn.GELU)
    gradient = mean_gradient(model, inputs, labels, same(8, 3), 0.1)
    found = UpdateTensorAttack().run(model, gradient, local=LocalWork(3, 0.03))
    assert not found.certified.any()


def test_an_unknown_learning_rate_is_said_to_be_needed():
    inputs, labels = samples(4)
    model = network(nn.GELU)
    gradient = mean_gradient(model, inputs, labels, same(4, 2), 0.1)
    with pytest.raises(NotApplicable, match="learning rate"):
        UpdateTensorAttack().run(model, gradient, local=LocalWork(2))


def simulated(activation, order, lr=0.1):
    """The reduced client, the observed update in its coordinates, and the true hypothesis."""
    inputs, labels = samples(len(order.unique()))
    model = network(activation).double()
    gradient = mean_gradient(model, inputs.double(), labels, order, lr)
    total = {name: value * len(order) for name, value in gradient.items()}
    problem = Problem(model, total, None, "cross_entropy", None, None)
    pair = readable_pair(problem)
    layer = layer_gradient(problem, pair)
    space = gradient_space(layer)
    client = reduced_client(model, pair, layer, space, lr)
    homogeneous = torch.cat([inputs, torch.ones(len(inputs), 1)], 1).double()
    truth = Hypothesis(homogeneous @ space.V, labels, order)
    return client, reduced_update(total, pair, layer, space), truth, space


@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU])
@pytest.mark.parametrize("order", [same(6, 3), epoch(6, 3)])
def test_the_reduced_client_sends_what_the_client_sends(activation, order):
    client, observed, truth, _ = simulated(activation, order)
    assert float(misfit(client, observed, truth, truth.points).norm()) < 1e-10
    D = client.columns(truth.points, truth.labels, truth.order)
    assert torch.allclose(D @ truth.points, observed["0.weight"], atol=1e-12)


@pytest.mark.parametrize(("activation", "solve"), [(nn.Tanh, gauss_newton), (nn.ReLU, fixed_point)])
def test_a_disturbed_hypothesis_goes_back_to_the_truth(activation, solve):
    client, observed, truth, space = simulated(activation, same(6, 3))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(truth.points.shape, generator=generator).double()
    noise -= torch.outer(noise @ space.last, space.last) / space.last.square().sum()
    start = Hypothesis(truth.points + 0.02 * noise, truth.labels, truth.order)
    points, error = solve(client, observed, start, space.last)
    assert error < 1e-8
    assert torch.allclose(points, truth.points, atol=1e-6)


@pytest.mark.parametrize("samples", [12, 4])
def test_several_steps_are_read_in_a_scenario(scenario, tmp_path, samples):
    """Twelve images are three batches of four; four are the same batch three times."""
    config = scenario(
        "tracker=none", "attack=tensor_updates", "clients.local_steps=3", "clients.batch_size=4",
        "clients.lr=0.01", "clients.per_round=1", f"data.samples_per_client={samples}",
        "model.width=512",
    )  # fmt: skip
    (row,) = run_scenario(config, tmp_path, Display(brief=True)).attacks
    assert row.recovered == row.certified == row.batch_size == samples
    assert row.false_certificates == 0
