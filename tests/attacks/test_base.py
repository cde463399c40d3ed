"""The protocol every attack goes through."""

import pytest
import torch
from torch import nn

from attacks import Attack, Knowledge, Reconstruction, validate_gradient


class Echo(Attack):
    """Returns its problem through `info`."""

    def __init__(self, strength=2):
        self.strength = strength
        self._cache = {}

    def reconstruct(self, problem):
        return Reconstruction(
            inputs=torch.zeros(0, 3),
            info={"problem": problem, "draw": torch.rand(1, generator=problem.generator).item()},
        )


@pytest.fixture
def model():
    return nn.Linear(3, 2)


@pytest.fixture
def gradient(model):
    return {name: torch.ones_like(p) for name, p in model.named_parameters()}


def test_a_problem_holds_nothing_but_what_was_given(model, gradient):
    problem = Echo().run(model, gradient).info["problem"]
    assert problem.knows == Knowledge()
    assert problem.knows.names == ()
    assert problem.input_shape is None
    assert list(problem.gradient) == ["weight", "bias"]


def test_the_same_seed_draws_the_same(model, gradient):
    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        return Echo().run(model, gradient, generator=generator).info["draw"]

    assert drawn(1) == drawn(1) != drawn(2)
    assert Echo().run(model, gradient).info["draw"] == Echo().run(model, gradient).info["draw"]


def test_seconds_are_measured(model, gradient):
    assert Echo().run(model, gradient).seconds > 0


def test_repr_shows_hyperparameters_only():
    assert repr(Echo(strength=3)) == "Echo(strength=3)"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda g: g.pop("bias"), "lacks 'bias'"),
        (lambda g: g.update(extra=torch.ones(1)), "'extra', unknown to the model"),
        (lambda g: g.update(weight=torch.ones(3, 2)), r"'weight' has shape \(3, 2\)"),
        (lambda g: g.update(bias=torch.tensor([1.0, torch.nan])), "'bias' contains NaN"),
        (lambda g: g.update(bias=torch.tensor([1.0, torch.inf])), "'bias' contains infinite"),
        (lambda g: g.update(bias=torch.tensor([1, 2])), "'bias' has dtype torch.int64"),
    ],
)
def test_a_bad_gradient_is_refused_by_name(model, gradient, spoil, sentence):
    spoil(gradient)
    with pytest.raises(ValueError, match=sentence):
        Echo().run(model, gradient)


def test_an_unknown_loss_is_refused(model, gradient):
    with pytest.raises(ValueError, match="loss='hinge'"):
        Echo().run(model, gradient, loss="hinge")


def test_frozen_parameters_have_no_gradient(model, gradient):
    model.bias.requires_grad_(False)
    del gradient["bias"]
    assert list(validate_gradient(model, gradient)) == ["weight"]


def test_a_reconstruction_counts_its_parts():
    with pytest.raises(ValueError, match="certified has 2 entries for 1 inputs"):
        Reconstruction(
            inputs=torch.zeros(1, 3),
            certified=torch.zeros(2, dtype=torch.bool),
            residual=torch.zeros(1),
        )


class Silent(Attack):
    def reconstruct(self, problem):
        return None


def test_an_attack_that_returns_nothing_is_told_so(model, gradient):
    with pytest.raises(
        TypeError, match=r"Silent\.reconstruct returned no Reconstruction: NoneType"
    ):
        Silent().run(model, gradient)
