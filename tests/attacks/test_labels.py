"""Labels and batch sizes from the last layer's gradient of untrained networks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from attacks import NotApplicable, infer_labels
from attacks.labels import round_counts


def classifier(activation=nn.ReLU, bias=True, classes=10):
    return nn.Sequential(nn.Linear(50, 128), activation(), nn.Linear(128, classes, bias=bias))


def gradient_of(model, inputs, labels):
    value = nn.functional.cross_entropy(model(inputs), labels)
    grads = torch.autograd.grad(value, list(model.parameters()))
    return {n: g for (n, _), g in zip(model.named_parameters(), grads, strict=True)}


def instance(seed, batch, **settings):
    torch.manual_seed(seed)
    model = classifier(**settings)
    labels = torch.randint(10, (batch,))
    # as images are: positive, and alike more than different
    inputs = torch.rand(batch, 50)
    return model, gradient_of(model, inputs, labels), labels.sort().values


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Sigmoid])
@pytest.mark.parametrize("bias", [True, False])
def test_one_label_is_read_without_being_told_the_batch_size(activation, bias):
    for seed in range(5):
        model, gradient, labels = instance(seed, 1, activation=activation, bias=bias)
        found = infer_labels(model, gradient)
        assert found.batch_size == 1
        assert torch.equal(found.labels, labels)


@pytest.mark.parametrize("batch", [4, 16, 32])
def test_counts_of_a_batch_are_right_on_an_untrained_network(batch):
    right = 0
    for seed in range(20):
        model, gradient, labels = instance(seed, batch)
        found = infer_labels(model, gradient)
        assert found.batch_size == batch
        right += torch.equal(found.labels, labels)
    assert right >= 19


@pytest.mark.parametrize("batch", [8, 16, 32])
def test_the_set_of_classes_is_right_where_features_differ(batch):
    """Standardised inputs spread widely around their mean, and the mean feature is what is hard."""
    right = 0
    for seed in range(100):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(50, 256), nn.ReLU(), nn.Linear(256, 10))
        labels = torch.randint(10, (batch,))
        gradient = gradient_of(model, torch.randn(batch, 50), labels)
        found = infer_labels(model, gradient, batch_size=batch)
        right += torch.equal(found.counts > 0, torch.bincount(labels, minlength=10) > 0)
    assert right >= 99


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Tanh])
def test_weights_that_were_sent_back_show_the_batch_size(activation):
    """Their difference is a gradient in float64 with the rounding of float32."""
    model, gradient, labels = instance(0, 4, activation=activation)
    sent = {name: p.detach() for name, p in model.named_parameters()}
    returned = {name: sent[name] - 0.1 * gradient[name] for name in sent}
    update = {name: (sent[name].double() - returned[name].double()) / 0.1 for name in sent}
    found = infer_labels(model, update)
    assert found.batch_size == 4
    assert torch.equal(found.labels, labels)


def test_a_granted_batch_size_overrules():
    model, gradient, _ = instance(0, 4)
    found = infer_labels(model, gradient, batch_size=8)
    assert len(found.labels) == int(found.counts.sum()) == 8
    assert found.batch_size is None  # what is granted is not estimated


def test_the_shares_are_bias_corrected():
    """A class held by exactly its predicted share leaves no trace in the bias' gradient."""
    model, gradient, labels = instance(3, 32)
    shares = torch.bincount(labels, minlength=10) / 32
    assert (infer_labels(model, gradient).shares - shares).abs().max() < 0.01
    naive = -gradient["2.bias"].clamp_max(0)
    assert (naive - shares).abs().max() > 0.05


def test_saturated_ranks_ask_for_the_batch_size():
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    gradient = gradient_of(model, torch.randn(20, 6), torch.randint(3, (20,)))
    with pytest.raises(NotApplicable, match=r"attack\.knows=\[batch_size\]"):
        infer_labels(model, gradient)
    assert len(infer_labels(model, gradient, batch_size=20).labels) == 20


def test_a_model_that_does_not_end_linearly_is_refused():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3), nn.Tanh())
    gradient = gradient_of(model, torch.randn(1, 6), torch.tensor([1]))
    with pytest.raises(NotApplicable, match="not a linear layer"):
        infer_labels(model, gradient, batch_size=1)


def test_a_convolutional_model_needs_its_input_shape():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 4))
    gradient = gradient_of(model, torch.randn(2, 1, 8, 8), torch.tensor([1, 3]))
    with pytest.raises(NotApplicable, match="input_shape"):
        infer_labels(model, gradient)
    found = infer_labels(model, gradient, input_shape=(1, 8, 8))
    assert found.labels.tolist() == [1, 3]


def test_a_batch_size_of_zero_is_refused():
    model, gradient, _ = instance(0, 1)
    with pytest.raises(ValueError, match="batch_size=0"):
        infer_labels(model, gradient, batch_size=0)


@given(
    weights=st.lists(st.floats(0.01, 1), min_size=2, max_size=12),
    size=st.integers(1, 40),
    data=st.data(),
)
def test_rounded_counts_sum_up_and_stay_near(weights, size, data):
    shares = torch.tensor(weights, dtype=torch.float64)
    shares = shares / shares.sum()
    certain = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=len(weights), max_size=len(weights)))
    )
    counts = round_counts(shares, certain, size)
    assert int(counts.sum()) == size
    assert (counts >= 0).all()
    if int(certain.sum()) <= size:
        assert (counts[certain] >= 1).all()
    assert torch.equal(round_counts(counts / size, counts > 0, size), counts)
