"""What stands before a layer is judged by what it does, in both modes and any company."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from attacks import NotApplicable, TensorAttack
from attacks.linear import linear_calls
from attacks.reading.conduct import conduct
from attacks.reading.inputs import drawing
from attacks.reading.private import private_copy
from attacks.tensor.layers import find_linear_pairs
from attacks.testing.training import DropPath, Flip, Mixed, Noise, Shuffled


class Module(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def by_python(self, x):
    return x * (1 + random.random()) if self.training else x


def by_numpy(self, x):
    return x * (1 + np.random.rand()) if self.training else x


def rarely(self, x):
    return x + 1 if self.training and float(x.abs().max()) > 0 else x


def centred(self, x):
    return x - x.mean(0)


def clipped(self, x):
    return x.clamp(-3, 3)


def rounded(self, x):
    return (x * 255).round() / 255


def bounded(self, x):
    return torch.where(x.abs() > 50, torch.zeros_like(x), x)


FRONTS = {  # what stands there, whether the input passes, what is said
    "nothing": (None, True, None),
    "no dropout": (nn.Dropout(0.0), True, None),
    "a view": (Module(lambda self, x: x.view(len(x), 2, 15).flatten(1)), True, None),
    "twice the same": (Module(lambda self, x: x * 2 / 2), True, None),
    "dropout": (nn.Dropout(0.1), False, "in training mode '0'"),
    "little dropout": (nn.Dropout(0.01), False, "in training mode '0'"),
    "noise": (Noise(), False, "in training mode '0'"),
    "flips": (Flip(), False, "in training mode '0'"),
    "stochastic depth": (DropPath(), False, "in training mode '0'"),
    "Python's numbers": (Module(by_python), False, "in training mode '0'"),
    "NumPy's numbers": (Module(by_numpy), False, "in training mode '0'"),
    "a constant in training": (Module(rarely), False, "in training mode '0'"),
    "batch normalisation": (nn.BatchNorm1d(30), False, "in training mode '0'"),
    "random in either mode": (Noise(always=True), False, "drawn at random"),
    "a shuffle": (Shuffled(), False, "drawn at random"),
    "a mixture": (Mixed(), False, "depends on the others'"),
    "centring": (Module(centred), False, "depends on the others'"),
    "clipping": (Module(clipped), False, None),
    "rounding": (Module(rounded), False, None),
    "outliers removed": (Module(bounded), False, None),
    "scaling": (Module(lambda self, x: 2 * x), False, None),
}


@pytest.mark.parametrize("name", FRONTS)
@pytest.mark.parametrize("training", [True, False])
def test_fronts(name, training):
    front, passes, said = FRONTS[name]
    model = nn.Sequential(front or nn.Identity(), nn.Linear(30, 64), nn.GELU(), nn.Linear(64, 3))
    model.train(training)
    state = torch.get_rng_state()
    private = private_copy(model)
    met = conduct(private, "1", drawing(private, (30,)))
    assert met.passes == passes
    assert met.reason is None if said is None else said in met.reason
    (pair,) = find_linear_pairs(model, (30,))
    assert pair.at_input == passes
    first = next(call for call in linear_calls(model, (30,)) if call.name == "1")
    assert first.at_input == passes
    assert model.training == training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_rare_accident_is_seen_where_a_generator_is_drawn_from():
    """Even if it changes nothing in the runs that are made."""

    def once_in_a_while(self, x):
        return x + 1 if self.training and torch.rand(()) < 1e-6 else x

    model = nn.Sequential(Module(once_in_a_while), nn.Linear(30, 64), nn.GELU(), nn.Linear(64, 3))
    (pair,) = find_linear_pairs(model, (30,))
    assert not pair.at_input


class Counting(nn.Module):
    """Flips every tenth call in training mode."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x.flip(1) if self.calls % 10 == 0 else x


class Seldom(nn.Module):
    """Flips once in a thousand calls, by a generator of its own."""

    def __init__(self, generator):
        super().__init__()
        self.kept = {"inside": [generator]}

    def forward(self, x):
        generator = self.kept["inside"][0]
        if isinstance(generator, torch.Generator):
            drawn = float(torch.rand((), generator=generator))
        else:
            drawn = generator.random()
        return x.flip(1) if drawn < 1e-3 else x


class Deaf(nn.Module):
    """Keeps out of training mode, unless it is told by hand."""

    def train(self, mode=True):
        return self

    def forward(self, x):
        return nn.functional.dropout(x, 0.3, self.training)


def at_threes(self, x):
    return 0.7 * x + 0.3 * x.flip(0) if len(x) % 3 == 0 else x


def recorded(self, x):
    return x.flip(1) if torch.is_grad_enabled() else x


def missing(self, x):
    return torch.where(x == -1, torch.zeros_like(x), x)


def bytes_to_one(self, x):
    return x / 255 if x.min() >= 0 and x.max() > 50 else x


def asks(self, x):
    return x.flip(1) if self.training and float(x[0, 0]) == 0.123 else x


SLY = {
    "a count of calls": (Counting, "keeps from call to call"),
    "NumPy's generator": (lambda: Seldom(np.random.default_rng(0)), "drawn at random"),
    "Python's generator": (lambda: Seldom(random.Random(0)), "drawn at random"),
    "torch's generator": (lambda: Seldom(torch.Generator().manual_seed(0)), "drawn at random"),
    "a mode set by hand": (Deaf, "drawn at random"),
    "batches of three": (lambda: Module(at_threes), None),
    "recorded gradients": (lambda: Module(recorded), "while gradients are recorded"),
    "a value for what is missing": (lambda: Module(missing), None),
    "bytes": (lambda: Module(bytes_to_one), None),
    "a value that is rarely met": (lambda: Module(asks), "asks whether it is in training mode"),
}


@pytest.mark.parametrize("name", SLY)
def test_fronts_that_hide_what_they_do(name):
    make, said = SLY[name]
    model = nn.Sequential(make(), nn.Linear(30, 64), nn.GELU(), nn.Linear(64, 3))
    (pair,) = find_linear_pairs(model, (30,))
    assert not pair.at_input
    if said is not None:
        private = private_copy(model)
        assert said in conduct(private, "1", drawing(private, (30,))).reason


def test_a_batch_that_is_handed_on_in_parts_is_not_called_a_mixture():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(30, 64), nn.Linear(64, 3)

        def forward(self, x):
            return torch.cat([self.b(torch.tanh(self.a(part))) for part in x.split(2)])

    private = private_copy(Parts())
    assert "a part of the batch at a time" in conduct(private, "a", drawing(private, (30,))).reason


def test_buffers_of_a_model_that_its_copy_holds_on_to_come_back():
    model = nn.Sequential(nn.BatchNorm1d(30), nn.Linear(30, 64), nn.GELU(), nn.Linear(64, 3))
    before = model[0].running_mean.clone()
    forward = model.forward
    model.forward = lambda x: forward(x)
    x, y = torch.randn(4, 30), torch.tensor([0, 1, 2, 0])
    loss = nn.functional.cross_entropy(model.eval()(x), y)
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    with pytest.raises(NotApplicable):
        TensorAttack().run(model.train(), gradient, input_shape=(30,))
    assert torch.equal(model[0].running_mean, before)
