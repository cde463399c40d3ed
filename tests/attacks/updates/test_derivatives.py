"""Following several steps differentiates the model twice, whatever comes after its first layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attacks import Interrupted, LocalWork, NotApplicable, UpdateTensorAttack
from attacks.updates.attempts import Case


class Tokens(nn.Module):
    """Attention over eight tokens of width four."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)

    def forward(self, x):
        return self.layer(x.view(len(x), 8, 4)).flatten(1)


class Channels(nn.Module):
    """A normalisation whose second derivative PyTorch lacks."""

    def __init__(self):
        super().__init__()
        self.layer = nn.CrossMapLRN2d(2)

    def forward(self, x):
        return self.layer(x.view(len(x), 2, 4, 4)).flatten(1)


class Gate(nn.Module):
    def forward(self, x):
        return x * nn.functional.hardsigmoid(x)


def updated(tail, lr=0.1, steps=3):
    """A model and the mean gradient of a client's steps on two samples each."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 96), nn.GELU(), nn.Linear(96, 32), tail, nn.Linear(32, 4))
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    sent = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(steps):
        value = nn.functional.cross_entropy(model(torch.rand(2, 24)), torch.randperm(4)[:2])
        grads = torch.autograd.grad(value, list(model.parameters()))
        with torch.no_grad():
            for (name, p), g in zip(model.named_parameters(), grads, strict=True):
                p -= lr * g
                total[name] += g / steps
    model.load_state_dict(sent)
    return model, total, LocalWork(steps, lr)


@pytest.fixture
def slopes(monkeypatch):
    """Derivatives of a simulated update by its points, the only attempt that is made."""
    found = []

    def attempts(case):
        points = torch.randn(2, case.space.rank, dtype=torch.float64, requires_grad=True)
        made = case.client.update(points, torch.tensor([0, 1]), torch.tensor([[0, 1], [1, 0]]))
        value = sum(tensor.square().sum() for tensor in made.values())
        found.extend(torch.autograd.grad(value, points))
        raise Interrupted
        yield

    monkeypatch.setattr(Case, "attempts", attempts)
    return found


@pytest.mark.parametrize("tail", [Tokens(), Gate()], ids=["attention", "hard sigmoid"])
def test_updates_are_differentiable_in_their_samples(tail, slopes):
    model, update, local = updated(tail)
    found = UpdateTensorAttack().run(model, update, local=local)
    assert found.info["interrupted"] is True
    assert slopes[0].isfinite().all()
    assert slopes[0].abs().sum() > 0


def test_a_layer_without_a_second_derivative_is_named(slopes):
    model, update, local = updated(Channels())
    with pytest.raises(NotApplicable, match=r"layer .3\.layer. \(CrossMapLRN2d\) has no second"):
        UpdateTensorAttack().run(model, update, local=local)


def test_other_errors_pass(monkeypatch):
    def attempts(case):
        raise RuntimeError("of its own")

    monkeypatch.setattr(Case, "attempts", attempts)
    model, update, local = updated(Gate())
    with pytest.raises(RuntimeError, match="of its own"):
        UpdateTensorAttack().run(model, update, local=local)


def test_samples_behind_attention_are_read():
    model, update, local = updated(Tokens(), lr=0.05)
    found = UpdateTensorAttack().run(model, update, local=local)
    assert found.certified.sum() == 6
