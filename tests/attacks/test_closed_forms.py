"""The closed-form attacks: exact where they claim to be, silent or honest where they are not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attacks import (
    AnalyticAttack,
    CocktailPartyAttack,
    Knowledge,
    NotApplicable,
    PeelingAttack,
    SpearAttack,
)
from attacks.cocktail_party import fast_ica, whiten
from attacks.spear import belongs_to_one_sample, promising, refine


def gradient_of(model, inputs, labels, loss="cross_entropy"):
    value = getattr(nn.functional, loss)(model(inputs), labels)
    grads = torch.autograd.grad(value, list(model.parameters()))
    return {n: g for (n, _), g in zip(model.named_parameters(), grads, strict=True)}


def instance(batch, width=200, size=60, activation=nn.ReLU, positive=False, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(size, width), activation(), nn.Linear(width, 10))
    inputs = torch.rand(batch, size) if positive else torch.randn(batch, size)
    labels = torch.randint(10, (batch,))
    return model, gradient_of(model, inputs, labels), inputs, labels


def errors(found, inputs):
    """Relative error of every true input, and its nearest reconstruction."""
    distance = torch.cdist(inputs.double(), found.inputs.double().flatten(1))
    return (distance / inputs.double().norm(dim=1, keepdim=True)).min(1)


def assert_everything_is_exact(found, inputs, labels):
    error, nearest = errors(found, inputs)
    assert error.max() < 1e-4
    assert len(found) == found.batch_size == len(inputs)
    assert found.certified.all() or len(inputs) == 1
    assert torch.equal(found.labels[nearest], labels)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Sigmoid])
def test_one_sample_is_a_quotient(activation):
    model, gradient, inputs, labels = instance(1, activation=activation)
    assert_everything_is_exact(AnalyticAttack().run(model, gradient), inputs, labels)


def test_one_sample_of_a_linear_classifier_under_squared_loss():
    torch.manual_seed(0)
    model, inputs = nn.Linear(12, 4), torch.randn(1, 12)
    gradient = gradient_of(model, inputs, torch.randn(1, 4), "mse_loss")
    found = AnalyticAttack().run(model, gradient, loss="mse")
    assert errors(found, inputs)[0].max() < 1e-5
    assert found.certified.all()


def test_quotients_of_a_batch_are_mixtures_and_never_certified():
    model, gradient, _, _ = instance(4, activation=nn.GELU)
    found = AnalyticAttack().run(model, gradient)
    assert found.batch_size == len(found) == 4
    assert not found.certified.any()


@pytest.mark.parametrize("loss", ["cross_entropy", "mse_loss"])
@pytest.mark.parametrize("activation", [nn.Hardsigmoid, nn.Identity])
def test_a_gradient_of_rank_one_may_be_the_mean_of_a_batch(activation, loss):
    """Equal slopes and parallel errors: two classes, or one output under squared loss."""
    torch.manual_seed(0)
    outputs = 2 if loss == "cross_entropy" else 1
    model = nn.Sequential(nn.Linear(60, 200), activation(), nn.Linear(200, outputs))
    inputs = torch.randn(8, 60)
    labels = torch.arange(8) % 2 if outputs == 2 else torch.randn(8, 1)
    found = AnalyticAttack().run(
        model, gradient_of(model, inputs, labels, loss), loss=loss.removesuffix("_loss")
    )
    assert found.batch_size == len(found) == 1
    assert errors(found, inputs)[0].min() > 0.1
    assert not found.certified.any()


@pytest.mark.parametrize("activation", [nn.Hardsigmoid, nn.ReLU])
def test_one_sample_of_two_classes_is_certified(activation):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 200), activation(), nn.Linear(200, 2))
    inputs, labels = torch.randn(1, 60), torch.tensor([1])
    found = AnalyticAttack().run(model, gradient_of(model, inputs, labels))
    assert errors(found, inputs)[0].max() < 1e-4
    assert found.certified.all()
    assert torch.equal(found.labels, labels)


def test_isolated_units_come_first():
    """Among few samples and many units some see one sample alone, and agree on it."""
    model, gradient, inputs, _ = instance(3, width=400)
    found = AnalyticAttack().run(model, gradient)
    assert errors(found, inputs)[0].max() < 1e-4
    assert min(found.info["units_in_agreement"]) > 3


def test_a_convolution_first_has_no_quotient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))
    gradient = gradient_of(model, torch.randn(1, 1, 8, 8), torch.tensor([0]))
    for attack in (AnalyticAttack(), CocktailPartyAttack(), SpearAttack(), PeelingAttack()):
        with pytest.raises(
            NotApplicable, match=r"begin with a linear layer|not handed the input itself"
        ):
            attack.run(model, gradient, input_shape=(1, 8, 8))


def test_a_layer_without_bias_is_refused_by_name():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 30, bias=False), nn.ReLU(), nn.Linear(30, 3))
    gradient = gradient_of(model, torch.randn(2, 9), torch.tensor([0, 1]))
    for attack in (AnalyticAttack(), SpearAttack(), PeelingAttack()):
        with pytest.raises(NotApplicable, match=r"'0\.bias'"):
            attack.run(model, gradient)


@pytest.mark.parametrize("attack", [SpearAttack(), PeelingAttack()])
def test_a_smooth_activation_has_no_silent_units(attack):
    model, gradient, _, _ = instance(3, activation=nn.Tanh)
    with pytest.raises(NotApplicable, match="flat nowhere"):
        attack.run(model, gradient)


@pytest.mark.parametrize("batch", [1, 5, 9])
def test_spear_finds_every_sample(batch):
    model, gradient, inputs, labels = instance(batch)
    assert_everything_is_exact(SpearAttack().run(model, gradient), inputs, labels)


@pytest.mark.slow
def test_spear_reaches_fourteen_samples():
    model, gradient, inputs, labels = instance(14, width=400, size=100)
    assert_everything_is_exact(SpearAttack().run(model, gradient), inputs, labels)


def test_spear_gives_up_when_its_draws_are_spent():
    model, gradient, _, _ = instance(16)
    found = SpearAttack(draws=64, chunk=64).run(model, gradient)
    assert len(found) == 0
    assert found.batch_size == 16
    assert "after 64 draws" in found.info["reason"]


def sparse_columns(m=120, B=6, seed=0):
    """A made-up D = gate o (A delta), its orthonormal basis L, and U."""
    torch.manual_seed(seed)
    A, delta = torch.randn(m, 3).double(), torch.randn(3, B).double()
    D = (torch.rand(m, B) < 0.5) * (A @ delta)
    return D, torch.linalg.qr(D).Q, torch.linalg.qr(A).Q


def test_drawn_directions_are_columns_or_refused():
    D, L, U = sparse_columns()
    generator = torch.Generator().manual_seed(0)
    believed = 0
    for direction in promising(L, 2000, generator):
        refined = refine(L, direction)
        if refined is None or not belongs_to_one_sample(L @ refined, U):
            continue
        cosine = (L @ refined) @ (D / D.norm(dim=0))
        assert float(cosine.abs().max()) == pytest.approx(1)
        believed += 1
    assert believed >= 6


def test_a_sum_of_columns_does_not_belong_to_one_sample():
    D, _, U = sparse_columns()
    assert belongs_to_one_sample(D[:, 0], U)
    assert not belongs_to_one_sample(D[:, 0] + D[:, 1], U)


@pytest.mark.parametrize("batch", [1, 8, 24])
def test_peeling_finds_positive_inputs(batch):
    model, gradient, inputs, labels = instance(batch, width=600, positive=True)
    assert_everything_is_exact(PeelingAttack().run(model, gradient), inputs, labels)


def test_peeling_goes_through_deep_networks():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(40, 400), nn.ReLU(), nn.Linear(400, 50), nn.Tanh(), nn.Linear(50, 10)
    )
    inputs, labels = torch.rand(6, 40), torch.randint(10, (6,))
    found = PeelingAttack().run(model, gradient_of(model, inputs, labels))
    assert_everything_is_exact(found, inputs, labels)


def test_peeling_certifies_nothing_false_where_it_fails():
    model, gradient, inputs, _ = instance(40, width=200)
    found = PeelingAttack().run(model, gradient)
    if found.certified.any():
        distance = torch.cdist(found.inputs[found.certified].double(), inputs.double())
        assert (distance.min(1).values < 1e-2 * inputs.norm(dim=1).max()).all()
    assert len(found) < 40


def test_independent_components_are_unmixed():
    generator = torch.Generator().manual_seed(0)
    sources = torch.rand(4, 3000, generator=generator).double()
    mixing = torch.randn(4, 4, generator=generator).double()
    white, whitener = whiten(mixing @ sources)
    torch.testing.assert_close(white @ white.T / 3000, torch.eye(4).double(), atol=1e-8, rtol=0)
    total = fast_ica(white, generator) @ whitener @ mixing
    # a permutation up to sign and scale
    dominance = total.abs().max(1).values / total.abs().sum(1)
    assert dominance.min() > 0.85
    assert len(set(total.abs().argmax(1).tolist())) == 4


def blobs(batch, side=16):
    """Smooth sparse images: a few bright squares each."""
    torch.manual_seed(2)
    images = torch.zeros(batch, 1, side, side)
    for image in images:
        for _ in range(3):
            i, j = torch.randint(side - 4, (2,)).tolist()
            image[0, i : i + 4, j : j + 4] += float(torch.rand(1)) + 0.5
    return images


def test_cocktail_party_separates_smooth_images():
    images = blobs(4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 100), nn.Tanh(), nn.Linear(100, 10))
    gradient = gradient_of(model, images, torch.arange(4))
    found = CocktailPartyAttack().run(model, gradient, input_shape=(1, 16, 16))
    assert found.batch_size == len(found) == 4
    assert errors(found, images.flatten(1))[0].median() < 0.2


def test_a_granted_range_is_kept():
    images = blobs(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 100), nn.Tanh(), nn.Linear(100, 10))
    gradient = gradient_of(model, images, torch.arange(3))
    knows = Knowledge(data_range=(0.0, 0.5))
    found = CocktailPartyAttack(50).run(model, gradient, input_shape=(1, 16, 16), knows=knows)
    assert found.inputs.min() >= 0
    assert found.inputs.max() <= 0.5
