"""The founding paper's estimator in the founding paper's setting, and a little beyond it."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from attacks import Knowledge, NotApplicable, PublishedTensorAttack
from attacks.tensor.hermite import gaussian_moments
from attacks.tensor.published import choose_orders


class Cubic(nn.Module):
    def forward(self, z):
        return z**2 + z**3


class Quadratic(nn.Module):
    def forward(self, z):
        return z**2 + z


def batch_gradient(model, inputs, targets, loss="mse"):
    output = model(inputs)
    output = output[:, 0] if loss == "mse" and output.shape[1] == 1 else output
    value = getattr(nn.functional, {"mse": "mse_loss"}.get(loss, loss))(output, targets)
    grads = torch.autograd.grad(value, list(model.parameters()))
    return {n: g for (n, _), g in zip(model.named_parameters(), grads, strict=True)}


def paper_instance(activation, d=20, m=5000, seed=0, offset=30.0, dtype=torch.float64):
    """The paper's network, gradient, and two orthonormal inputs that are not on the axes."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(d, m, bias=False), activation(), nn.Linear(m, 1, bias=False))
    model = model.to(dtype)
    draws = torch.randn(m + d, d, generator=generator, dtype=torch.float64).to(dtype)
    with torch.no_grad():
        model[0].weight.copy_(draws[:m])
        model[2].weight.fill_(1 / m)
    inputs = torch.eye(d, dtype=dtype)[:2]
    targets = torch.tensor([1.0, -1.0], dtype=dtype) - offset
    return model, batch_gradient(model, inputs, targets), inputs, targets


def error(found, inputs, free_sign=False):
    """(mean |x - x'|^2, index of the partner of every input) after the best matching."""
    distance = torch.cdist(inputs, found.inputs) ** 2
    if free_sign:
        distance = torch.minimum(distance, torch.cdist(inputs, -found.inputs) ** 2)
    rows, columns = linear_sum_assignment(distance.numpy())
    return float(distance[rows, columns].mean()), torch.from_numpy(columns)


def mean_error(activation, seeds=4, free_sign=False, settings=None, **instance):
    attack = PublishedTensorAttack(**(settings or {}))
    total = 0.0
    for seed in range(seeds):
        model, gradient, inputs, _ = paper_instance(activation, seed=seed, **instance)
        found = attack.run(model, gradient, loss="mse")
        assert len(found) == len(inputs) == found.batch_size
        assert not found.certified.any()
        total += error(found, inputs, free_sign)[0]
    return total / seeds


# Published or independently re-run at d = 20, m = 5000; about twice the spread over seeds.
FIGURES = [
    (Cubic, {"source": "outgoing"}, 0.119, 0.08),
    (Cubic, {}, 0.006, 0.004),
    (nn.Tanh, {}, 0.034, 0.018),
    (nn.Sigmoid, {}, 0.066, 0.05),
    (nn.ReLU, {}, 0.006, 0.005),
]


@pytest.mark.parametrize(("activation", "settings", "figure", "spread"), FIGURES)
def test_reproduces_the_papers_figures(activation, settings, figure, spread):
    odd = activation in (nn.Tanh, nn.Sigmoid)
    assert mean_error(activation, 6, odd, settings) == pytest.approx(figure, abs=spread)


@pytest.mark.parametrize("settings", [{}, {"source": "outgoing"}, {"subspace": "third"}])
def test_error_falls_with_width(settings):
    errors = [mean_error(Cubic, 4, d=10, m=m, settings=settings) for m in (2000, 8000, 32000)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.ReLU, Cubic])
def test_variance_reductions_reduce_it(activation):
    odd = activation in (nn.Tanh, nn.Sigmoid)
    reduced = {"probe": "gradient", "centre": True}
    better = mean_error(activation, 3, odd, reduced, d=60)
    assert better < mean_error(activation, 3, odd, d=60)


@pytest.mark.parametrize("activation", [Cubic, nn.ReLU, nn.GELU])
def test_labels_are_targets(activation):
    model, gradient, inputs, targets = paper_instance(activation, m=40000, offset=0.5)
    attack = PublishedTensorAttack(probe="gradient", centre=True)
    found = attack.run(model, gradient, loss="mse")
    _, partner = error(found, inputs)
    assert torch.allclose(found.labels[partner], targets, atol=0.3)


def test_orders_follow_the_moments():
    orders = {
        activation: choose_orders(gaussian_moments(activation))
        for activation in (torch.relu, nn.GELU(), torch.tanh, torch.sigmoid, Cubic(), torch.cos)
    }
    assert list(orders.values()) == [(2, 4), (2, 4), (3, 3), (3, 3), (2, 3), (2, 4)]
    assert choose_orders([1.0, 1.0, 0.0, 1e-3]) == (2, 4)  # weak, but all there is
    assert choose_orders(gaussian_moments(Cubic()), "third") == (3, 3)


def test_asked_for_a_vanishing_order():
    with pytest.raises(NotApplicable, match="order 2 vanishes"):
        choose_orders(gaussian_moments(torch.tanh), "second")
    with pytest.raises(NotApplicable, match="third and fourth"):
        choose_orders(gaussian_moments(Quadratic()))


@pytest.mark.parametrize("activation", [nn.Identity, Quadratic])
def test_refuses_what_is_not_identifiable(activation):
    model, gradient, _, _ = paper_instance(activation, m=50)
    with pytest.raises(NotApplicable, match="identifiable"):
        PublishedTensorAttack().run(model, gradient, loss="mse")


@pytest.mark.parametrize("source", ["hidden", "outgoing"])
def test_batch_size_from_the_spectrum_or_the_knowledge(source):
    model, gradient, _, _ = paper_instance(Cubic, d=8, m=20000)
    attack = PublishedTensorAttack(source=source)
    assert attack.run(model, gradient, loss="mse").batch_size == 2
    found = attack.run(model, gradient, loss="mse", knows=Knowledge(batch_size=3))
    assert found.batch_size == len(found) == 3
    with pytest.raises(NotApplicable, match="batch of 9"):
        attack.run(model, gradient, loss="mse", knows=Knowledge(batch_size=9))


def test_noise_of_full_rank_does_not_become_the_batch_size():
    model, gradient, _, _ = paper_instance(Cubic, d=8, m=20000)
    generator = torch.Generator().manual_seed(0)
    noisy = {
        name: g + 0.1 * g.std() * torch.randn(g.shape, generator=generator, dtype=g.dtype)
        for name, g in gradient.items()
    }
    assert PublishedTensorAttack().run(model, noisy, loss="mse").batch_size == 2


def test_components_bound_what_is_estimated():
    model, gradient, _, _ = paper_instance(Cubic, m=500)
    attack = PublishedTensorAttack(components=1)
    found = attack.run(model, gradient, loss="mse", knows=Knowledge(batch_size=2))
    assert (len(found), found.batch_size) == (1, 2)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.SiLU])
def test_biases_give_scale_and_sign(activation):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20000), activation(), nn.Linear(20000, 1))
    inputs, targets = 2 * torch.randn(2, 12), torch.tensor([8.0, -9.0])
    attack = PublishedTensorAttack(probe="gradient", centre=True)
    found = attack.run(model, batch_gradient(model, inputs, targets), loss="mse")
    loss, _ = error(found, inputs)
    assert found.inputs.dtype == torch.float32
    assert loss < 0.05 * float(inputs.square().sum(1).mean())


def test_reads_several_outputs():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 20000), nn.GELU(), nn.Linear(20000, 5))
    inputs = torch.randn(2, 3, 4)
    gradient = batch_gradient(model, inputs, torch.tensor([0, 3]), "cross_entropy")
    attack = PublishedTensorAttack(probe="gradient", centre=True)
    found = attack.run(model, gradient, input_shape=(3, 4))
    cosine = nn.functional.cosine_similarity(
        inputs.flatten(1)[:, None], found.inputs.flatten(1)[None], dim=2
    )
    assert found.inputs.shape == (2, 3, 4)
    assert found.labels is None
    assert cosine.max(1).values.min() > 0.7


def test_vanishing_gradient_gives_nothing():
    model, gradient, _, _ = paper_instance(nn.ReLU, m=50)
    found = PublishedTensorAttack().run(
        model, {name: torch.zeros_like(g) for name, g in gradient.items()}, loss="mse"
    )
    assert len(found) == 0
    assert found.info["reason"] == "the gradient vanishes"


def test_same_generator_same_result_and_model_untouched():
    model, gradient, _, _ = paper_instance(nn.Tanh, m=500)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attack = PublishedTensorAttack(probe="random")
    a, b = (
        attack.run(model, gradient, loss="mse", generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    assert torch.equal(a.inputs, b.inputs)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "both"}, "source='both'"),
        ({"subspace": "fourth"}, "subspace='fourth'"),
        ({"probe": "ones"}, "probe='ones'"),
        ({"projections": 0}, "projections=0"),
        ({"components": 0}, "components=0"),
    ],
)
def test_bad_settings_name_themselves(settings, message):
    with pytest.raises(ValueError, match=message):
        PublishedTensorAttack(**settings)
