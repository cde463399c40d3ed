"""Where two layers hardly tell inputs and errors apart, the forward pass does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attacks import TensorAttack
from attacks.tensor import tied


def batch_much_alike_before_a_softplus(seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(100, generator=g) + 0.2 * torch.rand(24, 100, generator=g)
    y = torch.randint(10, (24,), generator=g)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(100, 400), nn.Softplus(), nn.Linear(400, 10)).eval()
    value = nn.functional.cross_entropy(model(x), y)
    slopes = torch.autograd.grad(value, list(model.parameters()))
    names = [name for name, _ in model.named_parameters()]
    return model, dict(zip(names, slopes, strict=True)), x


def largest_error(found, x):
    distance = torch.cdist(x.double(), found.inputs.double())
    return float((distance.min(1).values / x.norm(dim=1)).max())


@pytest.mark.parametrize("seed", [0, 3])
def test_tying_errors_to_the_forward_pass_sharpens_the_inputs(monkeypatch, seed):
    model, gradient, x = batch_much_alike_before_a_softplus(seed)
    found = TensorAttack().run(model, gradient)
    monkeypatch.setattr(tied, "MISSED", float("inf"))
    free = TensorAttack().run(model, gradient)
    assert found.info["tied"]
    assert "tied" not in free.info
    assert len(found) == len(free) == 24
    assert found.info["gradient_residual"] < 0.1 * free.info["gradient_residual"]
    assert largest_error(found, x) < 0.3 * largest_error(free, x)
    assert largest_error(found, x) < 3e-4
    certified = found.inputs[found.certified]
    assert torch.cdist(certified, x).min(1).values.max() < 1e-2 * x.norm(dim=1).min()
