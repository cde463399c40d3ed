"""Every attack keeps its word on the battery, and the battery catches those that do not."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import attacks
from attacks import Attack, NotApplicable, Reconstruction
from attacks.testing import Case, FalseWord, Instance, cases, check_attack, check_case
from attacks.testing.battery import nearest
from attacks.testing.instance import client, plain
from attacks.testing.training import in_front

ATTACKS = {
    "tensor": attacks.TensorAttack(),
    "updates": attacks.UpdateTensorAttack(patience=2),
    "published": attacks.PublishedTensorAttack(),
    "features": attacks.FeatureInversion(20, 10, (0.3,), rounds=1, joint_steps=2),
    "analytic": attacks.AnalyticAttack(),
    "cocktail party": attacks.CocktailPartyAttack(20),
    "imprint": attacks.ImprintAttack(),
    "peeling": attacks.PeelingAttack(),
    "spear": attacks.SpearAttack(),
    "deep leakage": attacks.DeepLeakage(2),
    "inverting gradients": attacks.InvertingGradients(2),
    "see through": attacks.SeeThroughGradients(2),
    "feature matching": attacks.FeatureMatching(2),
}
EXACT = ("tensor", "updates", "features")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_there_are_at_least_sixty_ways_of_different_names():
    names = [case.name for case in cases()]
    assert len(names) == len(set(names)) >= 60


def test_every_attack_that_can_be_had_is_held_to_its_word():
    public = {kind for kind in vars(attacks).values() if isinstance(kind, type)}
    expected = {kind for kind in public if issubclass(kind, Attack) and kind is not Attack}
    assert {type(attack) for attack in ATTACKS.values()} == expected


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_keeps_its_word(name):
    outcomes = check_attack(ATTACKS[name])
    assert len(outcomes) == len(cases())
    if name in EXACT:
        unread = [o.case for o in outcomes if o.readable and o.certified != o.found]
        assert not unread
        assert all(o.found == 4 for o in outcomes if o.readable)


@pytest.mark.parametrize(
    ("case", "front"),
    [("dropout in front", "training mode"), ("a shuffle in front", "drawn at random"),
     ("a mixture of samples in front", "depends on the others"),
     ("one sample behind dropout", "training mode"),
     ("batch normalisation in front", "training mode")],
)  # fmt: skip
def test_features_are_certified_where_images_are_not(case, front):
    (chosen,) = (c for c in cases() if c.name == case)
    outcome = check_case(ATTACKS["features"], chosen)
    assert not outcome.complaints
    assert outcome.certified == 0 < outcome.found
    assert re.search(f"Exact is what '2' saw, not the image: .*{front}", outcome.message)
    assert outcome.features_certified == (0 if outcome.found == 1 else outcome.found)


def test_mixed_precision_certifies_nothing_false_over_seeds():
    (chosen,) = (c for c in cases() if c.name == "mixed precision")
    for seed in range(3):
        assert not check_case(attacks.TensorAttack(patience=1, fit=False), chosen, seed).complaints


class Liar(Attack):
    """Does what it is told to."""

    def __init__(self, deed):
        self.deed = deed

    def reconstruct(self, problem):
        return self.deed(problem)


def answer(problem, **changes):
    inputs = torch.ones(1, *problem.input_shape)
    kept = {"inputs": inputs, "certified": torch.ones(1) > 0, "residual": torch.zeros(1)}
    return Reconstruction(**(kept | changes))


def refuse(message):
    def deed(problem):
        raise NotApplicable(message)

    return deed


def fail(problem):
    raise RuntimeError("shape mismatch")


def scribble(problem):
    problem.gradient["1.weight"].zero_()
    return answer(problem, certified=torch.zeros(1) > 0)


LIES = {
    "certified 1 inputs that are not in the batch": answer,
    "returned inputs that are not finite": lambda p: answer(
        p, inputs=torch.full((1, *p.input_shape), torch.nan), certified=torch.zeros(1) > 0
    ),
    "returned inputs of shape": lambda p: answer(p, inputs=torch.ones(1, 3)),
    "raised RuntimeError: shape mismatch": fail,
    "said no sentence": refuse("no"),
    "said what is not true": refuse("No nn.Linear takes part in the model's forward pass."),
    "is handed the input itself": refuse("None of its layers is handed the input itself."),
    "changed the gradient": scribble,
}


@pytest.mark.parametrize("complaint", LIES)
def test_a_lie_is_caught(complaint):
    with pytest.raises(FalseWord, match=complaint):
        check_attack(Liar(LIES[complaint]), [Case("plain", lambda: client(plain()))])


def test_certified_inputs_behind_dropout_are_a_lie_even_if_they_are_right():
    def build():
        instance = in_front("lively", nn.Dropout(0.3))
        instance.model.truth = instance.inputs
        return instance

    def lucky(problem):
        return answer(problem, inputs=problem.model.truth[:1])

    with pytest.raises(FalseWord, match="behind a front that is lively"):
        check_attack(Liar(lucky), [Case("dropout", build)])


def test_certified_features_that_the_layer_did_not_see_are_a_lie():
    def deed(problem):
        wrong = torch.ones(1, 64)
        sure = torch.ones(1) > 0
        return answer(problem, certified=~sure, features=wrong, features_certified=sure)

    with pytest.raises(FalseWord, match="certified 1 features that the layer did not see"):
        check_attack(Liar(deed), [Case("dropout", lambda: in_front("lively", nn.Dropout(0.3)))])


def test_traces_on_the_users_model_are_complained_about():
    kept: list[nn.Module] = []

    def build():
        instance = client(plain())
        kept.append(instance.model)
        return instance

    def deed(problem):
        with torch.no_grad():
            kept[-1][1].weight.add_(1)
        kept[-1].eval()
        return answer(problem, certified=torch.zeros(1) > 0)

    complaints = check_case(Liar(deed), Case("plain", build)).complaints
    assert "changed the model's parameters or buffers" in complaints
    assert "changed the modules' modes" in complaints


def test_an_instance_of_ones_own_needs_a_model_a_gradient_and_the_truth():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.Tanh(), nn.Linear(96, 3))

    def build():
        inputs, labels = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2])
        loss = nn.functional.cross_entropy(model(inputs), labels)
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        return Instance(model, gradient, inputs, labels)

    (outcome,) = check_attack(attacks.TensorAttack(), [Case("mine", build)])
    assert (outcome.status, outcome.certified) == ("read", 3)


def test_distances_are_to_the_nearest_sample_and_of_none_there_are_none():
    truth = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(nearest(truth[:1] * 1.1, truth), torch.tensor([0.1]).double())
    assert float(nearest(truth[1:], truth)) == 0
    assert len(nearest(truth[:0], truth)) == 0
