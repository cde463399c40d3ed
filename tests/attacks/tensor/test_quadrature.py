"""Images on one line, and inputs that are small beside the bias: nothing false is certified."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attacks import AnalyticAttack, TensorAttack
from attacks.testing.battery import nearest

LOSSES = {
    "mse": nn.functional.mse_loss,
    "bce_with_logits": nn.functional.binary_cross_entropy_with_logits,
    "cross_entropy": nn.functional.cross_entropy,
}


def targets(loss, batch, outputs):
    if loss == "cross_entropy":
        return torch.randint(outputs, (batch,))
    drawn = torch.randn(batch, outputs)
    return drawn if loss == "mse" else (drawn > 0).float()


def run(model, x, loss, attack=None):
    outputs = model(x).shape[1]
    value = LOSSES[loss](model(x), targets(loss, len(x), outputs))
    gradient = torch.autograd.grad(value, list(model.parameters()))
    found = (attack or TensorAttack()).run(model, gradient, loss=loss)
    return found, nearest(found.inputs[found.certified], x)


@pytest.mark.parametrize(
    ("outputs", "loss", "activation", "on_line", "scale"),
    [(1, "mse", nn.GELU, 3, 0.1), (1, "mse", nn.Tanh, 4, 0.1),
     (1, "bce_with_logits", nn.GELU, 4, 0.1), (2, "cross_entropy", nn.GELU, 4, 0.1),
     (5, "cross_entropy", nn.GELU, 3, 0.03), (5, "cross_entropy", nn.GELU, 3, 0.3)],
)  # fmt: skip
@pytest.mark.parametrize("bias", [0.0, 3.0])
def test_one_image_at_several_brightnesses(outputs, loss, activation, on_line, scale, bias):
    for seed in range(6):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(80, 60), activation(), nn.Linear(60, outputs))
        with torch.no_grad():
            model[0].bias += bias
        x = scale * torch.randn(on_line + 2, 80)
        for i in range(1, on_line):
            x[i] = (1 + 0.5 * i) * x[0]
        errors = run(model, x, loss)[1]
        assert not (errors > 1e-2).any()


def test_images_in_general_position_keep_their_certificates():
    for seed in range(4):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(80, 60), nn.GELU(), nn.Linear(60, 5))
        found, errors = run(model, torch.randn(3, 80), "cross_entropy")
        assert found.certified.all()
        assert errors.max() < 1e-5


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.Softplus, nn.Sigmoid, nn.ReLU])
@pytest.mark.parametrize("scale", [1e-3, 3e-3, 1e-2])
def test_inputs_that_are_small_beside_the_bias(activation, scale):
    for seed in range(6):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(40, 120), activation(), nn.Linear(120, 5))
        assert not (run(model, scale * torch.randn(4, 40), "cross_entropy")[1] > 1e-2).any()


@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize("last", [nn.Linear(1, 5), nn.Sequential(nn.Tanh(), nn.Linear(1, 5))])
def test_a_bottleneck_makes_all_errors_parallel(batch, last):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 120), nn.ReLU(), nn.Linear(120, 1), last)
    with torch.no_grad():
        model[0].bias += 5
    x = torch.rand(batch, 40)
    for attack in (AnalyticAttack(), TensorAttack()):
        assert not (run(model, x, "mse", attack)[1] > 1e-2).any()


def test_one_sample_behind_several_outputs_keeps_its_certificate():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 120), nn.ReLU(), nn.Linear(120, 5))
    found, errors = run(model, torch.rand(1, 40), "mse", AnalyticAttack())
    assert found.certified.all()
    assert errors.max() < 1e-5
