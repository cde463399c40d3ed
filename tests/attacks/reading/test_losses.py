"""Losses are told by name or by what a function does; every one leaves the inputs exact."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from attacks import AnalyticAttack, DeepLeakage, NotApplicable, TensorAttack
from attacks.reading.losses import (
    checked_loss,
    class_errors,
    mean_loss,
    output_errors,
    parallel_errors,
    sample_losses,
    understood,
)

BATCH, INPUTS, CLASSES = 5, 40, 6


def network(outputs=CLASSES, activation=nn.GELU):
    return nn.Sequential(nn.Linear(INPUTS, 192), activation(), nn.Linear(192, outputs))


def classes(outputs):
    return torch.randint(max(outputs, 2), (BATCH,))


def binary(outputs):
    return torch.randint(2, (BATCH, outputs)).float()


def real(outputs):
    return torch.randn(BATCH, outputs)


SMOOTH = nn.CrossEntropyLoss(label_smoothing=0.1)
WEIGHTED = nn.CrossEntropyLoss(weight=torch.linspace(0.2, 2, CLASSES))
SUMMED = nn.CrossEntropyLoss(reduction="sum")
BINARY = functional.binary_cross_entropy_with_logits


def focal(output, target):
    chosen = output.log_softmax(1).gather(1, target[:, None])[:, 0]
    return -((1 - chosen.exp()) ** 2 * chosen).mean()


ROWS = {  # what clients minimise, what the attack is told, targets, outputs, labels or none
    "cross entropy": (functional.cross_entropy, "cross_entropy", classes, CLASSES, True),
    "cross entropy as a module": (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(), classes, 6, True),
    "label smoothing": (SMOOTH, "cross_entropy", classes, CLASSES, True),
    "label smoothing, told": (SMOOTH, SMOOTH, classes, CLASSES, True),
    "class weights": (WEIGHTED, "cross_entropy", classes, CLASSES, True),
    "sum reduction": (SUMMED, "cross_entropy", classes, CLASSES, True),
    "squared": (functional.mse_loss, "mse", real, CLASSES, True),
    "squared as a function": (functional.mse_loss, functional.mse_loss, real, CLASSES, True),
    "binary": (BINARY, "bce_with_logits", binary, CLASSES, True),
    "binary, one output": (BINARY, "bce_with_logits", binary, 1, True),
    "binary as a module": (BINARY, nn.BCEWithLogitsLoss(), binary, CLASSES, True),
    "focal": (focal, focal, classes, CLASSES, True),
    "Huber": (functional.huber_loss, functional.huber_loss, real, CLASSES, False),
    "binary, told wrong": (BINARY, "cross_entropy", binary, CLASSES, False),
    "squared, told wrong": (functional.mse_loss, "cross_entropy", real, CLASSES, False),
}


def gradient_of(model, loss, x, y):
    grads = torch.autograd.grad(loss(model(x), y), list(model.parameters()))
    return {n: g for (n, _), g in zip(model.named_parameters(), grads, strict=True)}


@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU])
@pytest.mark.parametrize("row", ROWS)
def test_every_loss_leaves_the_batch_exact(row, activation):
    loss, told, target, outputs, labelled = ROWS[row]
    torch.manual_seed(0)
    model, x = network(outputs, activation), torch.randn(BATCH, INPUTS)
    y = target(outputs)
    found = TensorAttack().run(model, gradient_of(model, loss, x, y), loss=told)
    error, nearest = (torch.cdist(x, found.inputs) / x.norm(dim=1, keepdim=True)).min(1)
    assert len(found) == BATCH
    assert error.max() < 1e-5
    if labelled or activation is nn.GELU:  # straight pieces and unknown errors prove less
        assert bool(found.certified.any())
    if not labelled:
        assert found.labels is None
    else:
        wanted = y[:, 0] if y.dim() == 2 and outputs == 1 else y
        torch.testing.assert_close(found.labels[nearest].to(wanted), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("row", ["binary, told wrong", "squared, told wrong"])
def test_a_cross_entropy_whose_errors_do_not_sum_to_zero_is_not_believed(row):
    loss, told, target, outputs, _ = ROWS[row]
    torch.manual_seed(0)
    model, x = network(outputs), torch.randn(BATCH, INPUTS)
    found = TensorAttack().run(model, gradient_of(model, loss, x, target(outputs)), loss=told)
    assert "not cross entropy" in found.info["loss"]
    assert found.certified.all()


def test_samples_that_are_ignored_are_neither_returned_nor_missed():
    torch.manual_seed(0)
    model, x = network(), torch.randn(BATCH, INPUTS)
    y = torch.tensor([0, 1, 3, 2, 3])
    ignoring = nn.CrossEntropyLoss(ignore_index=3)
    found = TensorAttack().run(model, gradient_of(model, ignoring, x, y))
    assert len(found) == found.batch_size == int(found.certified.sum()) == 3
    gap = (torch.cdist(found.inputs, x[y != 3]) / x[y != 3].norm(dim=1)).min(0).values
    assert gap.max() < 1e-5


def test_a_likelihood_of_log_probabilities_is_cross_entropy():
    torch.manual_seed(0)
    model = nn.Sequential(network(), nn.LogSoftmax(1))
    assert understood("nll", model, (INPUTS,)) == "cross_entropy"
    assert understood(functional.nll_loss, model, (INPUTS,)) == "cross_entropy"
    x, y = torch.randn(BATCH, INPUTS), classes(CLASSES)
    found = TensorAttack().run(model, gradient_of(model, functional.nll_loss, x, y), loss="nll")
    error, nearest = (torch.cdist(x, found.inputs) / x.norm(dim=1, keepdim=True)).min(1)
    assert error.max() < 1e-5
    assert found.certified.all()
    assert torch.equal(found.labels[nearest], y)


def test_a_likelihood_of_anything_else_stays_a_function():
    assert callable(understood("nll", network(), (INPUTS,)))
    assert callable(understood(functional.nll_loss, network(), (INPUTS,)))


@pytest.mark.parametrize("loss", ["hinge", "", None, 3])
def test_an_unknown_loss_is_named(loss):
    with pytest.raises(ValueError, match=f"loss={loss!r} is not one of cross_entropy, mse"):
        checked_loss(loss)


def test_one_sample_under_binary_cross_entropy_with_one_output_is_never_certified():
    """A mean of the batch explains as much: any size of the error is some target's."""
    torch.manual_seed(0)
    model, x = network(1, nn.Identity), torch.randn(BATCH, INPUTS)
    gradient = gradient_of(model, BINARY, x, binary(1))
    found = AnalyticAttack().run(model, gradient, loss="bce_with_logits", knows={"batch_size": 1})
    assert not found.certified.any()


def test_one_sample_under_a_loss_of_ones_own_is_certified_where_errors_differ():
    torch.manual_seed(0)
    model, x = network(), torch.randn(1, INPUTS)
    gradient = gradient_of(model, focal, x, torch.tensor([2]))
    found = AnalyticAttack().run(model, gradient, loss=focal)
    assert found.certified.all()
    torch.testing.assert_close(found.inputs, x, rtol=1e-4, atol=1e-5)


def test_matching_needs_labels_under_a_loss_of_ones_own():
    torch.manual_seed(0)
    model, x, y = network(), torch.randn(2, INPUTS), torch.tensor([1, 2])
    gradient = gradient_of(model, focal, x, y)
    with pytest.raises(NotApplicable, match=r"attack\.knows=\[labels\]"):
        DeepLeakage(2).run(model, gradient, loss=focal)
    found = DeepLeakage(2).run(model, gradient, loss=focal, knows={"labels": [1, 2]})
    assert found.labels.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("loss", "outputs", "parallel"),
    [("cross_entropy", 2, True), ("cross_entropy", 3, False), ("mse", 1, True), ("mse", 2, False),
     ("bce_with_logits", 1, True), ("bce_with_logits", 2, False), (focal, 2, True),
     (focal, 3, False), (lambda o, t: (o.sum(1) ** 2).mean(), 4, True),
     (lambda o, t: o.no_such_thing, 4, True)],
)  # fmt: skip
def test_errors_that_all_point_the_same_way(loss, outputs, parallel):
    assert parallel_errors(loss, outputs) == parallel


def test_sample_losses_and_their_derivatives_are_those_of_the_mean():
    torch.manual_seed(0)
    output = torch.randn(BATCH, CLASSES, dtype=torch.float64)
    for loss, y in [
        ("cross_entropy", classes(CLASSES)), ("mse", real(CLASSES).double()),
        ("bce_with_logits", binary(CLASSES).double()), (focal, classes(CLASSES)),
    ]:  # fmt: skip
        each = sample_losses(loss, output, y)
        torch.testing.assert_close(each.mean(), mean_loss(output, y, loss))
        leaf = output.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(mean_loss(leaf, y, loss), leaf)
        torch.testing.assert_close(output_errors(loss, output, y) / BATCH, slope)


def test_class_errors_are_the_derivatives_for_each_class():
    torch.manual_seed(0)
    output = torch.randn(BATCH, CLASSES, dtype=torch.float64)
    for loss in ("cross_entropy", focal):
        errors = class_errors(loss, output)
        for c in range(CLASSES):
            y = torch.full((BATCH,), c)
            torch.testing.assert_close(errors[:, c], output_errors(loss, output, y))
    assert class_errors("mse", output) is None
    assert class_errors(functional.huber_loss, output) is None
