"""The honest-but-curious server: it sees exactly the gradient, and nobody notices."""

import signal
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from attacks import Attack, Knowledge, NotApplicable, Reconstruction
from strategies import HonestButCurious, SeededCohort
from tests.strategies.apps import (
    LR,
    Spy,
    batch,
    build_model,
    client_app,
    fedavg,
    initial_arrays,
    run,
    same_bits,
)


def curious(attack, **settings):
    cohort = SeededCohort(fedavg(), per_round=2, seed=3)
    settings = {"lr": LR, "client_of": cohort.client_of, **settings}
    return HonestButCurious(cohort, attack, build_model, **settings)


def true_gradient(client, server_round, arrays):
    model = build_model()
    model.load_state_dict(arrays.to_torch_state_dict())
    inputs, labels = batch(client, server_round)
    loss = nn.functional.cross_entropy(model(inputs), labels)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def test_training_is_the_same_bit_for_bit_with_and_without():
    torch.manual_seed(1)
    np.random.seed(1)
    plain, without = run(SeededCohort(fedavg(), per_round=2, seed=3), rounds=3)
    drawn = torch.rand(1), np.random.rand()
    torch.manual_seed(1)
    np.random.seed(1)
    audited, with_attack = run(curious(Spy()), rounds=3)
    assert same_bits(without, with_attack)
    assert str(plain.train_metrics_clientapp) == str(audited.train_metrics_clientapp)
    assert (torch.rand(1), np.random.rand()) == drawn


def test_every_attacked_gradient_is_the_clients_gradient():
    spy = Spy()
    strategy = curious(spy)
    run(strategy, rounds=1)
    assert [o.status for o in strategy.observations] == ["ok", "ok"]
    for observation, problem in zip(strategy.observations, spy.problems, strict=True):
        truth = true_gradient(observation.client, 1, initial_arrays())
        for name, gradient in problem.gradient.items():
            assert torch.allclose(gradient, truth[name].double(), rtol=1e-4, atol=1e-6)


def test_the_attack_holds_the_parameters_that_were_sent():
    spy = Spy()
    run(curious(spy), rounds=1)
    sent = initial_arrays().to_torch_state_dict()
    for name, value in spy.problems[0].model.state_dict().items():
        assert torch.equal(value, sent[name])


def test_the_attack_is_handed_no_labels_truth_or_batch_size():
    spy = Spy()
    run(curious(spy), rounds=2)
    assert len(spy.problems) == 4
    for problem in spy.problems:
        assert problem.knows == Knowledge()
        assert set(problem.gradient) == set(dict(build_model().named_parameters()))


def test_only_what_is_granted_by_name_arrives():
    spy = Spy()
    run(curious(spy, knows=lambda r, c, _: Knowledge(batch_size=10 * r + c)), rounds=1)
    assert all(problem.knows.names == ("batch_size",) for problem in spy.problems)
    assert {p.knows.batch_size for p in spy.problems} <= {10, 11, 12}


def test_whoever_grants_is_handed_the_model_as_it_was_sent():
    handed = []

    def knows(server_round, client, model):
        handed.append(model.state_dict())
        return Knowledge()

    run(curious(Spy(), knows=knows), rounds=1)
    sent = initial_arrays().to_torch_state_dict()
    assert len(handed) == 2
    assert all(torch.equal(state[name], sent[name]) for state in handed for name in sent)


def test_the_learning_rate_is_taken_from_what_was_sent():
    strategy = HonestButCurious(fedavg(), Spy(), build_model)
    with pytest.raises(ValueError, match="learning rate"):
        run(strategy)


class Failing(Attack):
    def __init__(self, error):
        self.error = error

    def reconstruct(self, problem):
        raise self.error


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("singular"), "attack_failed"), (NotApplicable("no layer"), "not_applicable")],
)
def test_a_failing_attack_is_reported_and_training_goes_on(error, status):
    strategy = curious(Failing(error))
    _, with_attack = run(strategy)
    _, without = run(SeededCohort(fedavg(), per_round=2, seed=3))
    assert same_bits(with_attack, without)
    assert {o.status for o in strategy.observations} == {status}
    assert all(str(error) in o.message for o in strategy.observations)


class Slow(Attack):
    def __init__(self, polite):
        self.polite = polite

    def reconstruct(self, problem):
        try:
            while True:
                time.sleep(0.01)
        except KeyboardInterrupt:
            if self.polite:
                return Reconstruction(
                    inputs=torch.ones(1, 4),
                    certified=torch.ones(1, dtype=torch.bool),
                    residual=torch.zeros(1),
                )
            raise


@pytest.mark.parametrize(("polite", "found"), [(True, 1), (False, None)])
def test_an_attack_out_of_time_keeps_what_it_has(polite, found):
    strategy = curious(Slow(polite), timeout=0.1)
    run(strategy, rounds=1)
    assert {o.status for o in strategy.observations} == {"timeout"}
    assert {o.found and len(o.found) for o in strategy.observations} == {found}


class Impatient(Slow):
    """An attack during which the user presses Ctrl-C."""

    def reconstruct(self, problem):
        main = threading.main_thread().ident
        threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT)).start()
        return super().reconstruct(problem)


@pytest.mark.parametrize(("polite", "found"), [(True, 1), (False, None)])
def test_an_attack_the_user_interrupts_is_reported_with_what_it_has(polite, found):
    strategy = curious(Impatient(polite))
    with pytest.raises(KeyboardInterrupt):
        run(strategy, rounds=1)
    (observation,) = strategy.observations
    assert observation.status == "interrupted"
    assert "by the user" in observation.message
    assert (observation.found and len(observation.found)) == found


def spoiled(client, state):
    if client == 0:
        raise RuntimeError("out of battery")
    name = next(iter(state))
    if client == 1:
        state[name] = torch.full_like(state[name], torch.nan)
    if client == 2:
        state[name] = state[name][:-1]
    if client == 3:
        del state[name]
    return state


def test_each_bad_reply_is_named_and_the_good_one_attacked():
    from strategies import DropInvalidUpdates

    spy = Spy()
    inner = SeededCohort(DropInvalidUpdates(fedavg()), per_round=5)
    strategy = HonestButCurious(inner, spy, build_model, lr=LR, client_of=inner.client_of)
    _, arrays = run(strategy, clients=5, rounds=1, app=client_app(spoiled))
    seen = {o.client: (o.status, o.message) for o in strategy.observations}
    assert seen[0][0] == "client_failed"
    assert "out of battery" in seen[0][1]
    assert seen[1] == ("invalid_update", "'0.weight' contains NaN in the update.")
    assert seen[2][0] == "invalid_update"
    assert "shape (7, 4)" in seen[2][1]
    assert seen[3] == ("invalid_update", "The update lacks '0.weight'.")
    assert seen[4] == ("ok", "")
    assert len(spy.problems) == 1
    assert all(np.isfinite(value).all() for value in arrays.values())
    assert not same_bits(arrays, {k: v.numpy() for k, v in initial_arrays().items()})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"timeout": 0}, "timeout=0"),
        ({"lr": -1.0}, "lr=-1.0"),
        ({"local_steps": 0}, "local_steps=0"),
        ({"reply": "logits"}, "reply='logits'"),
    ],
)
def test_bad_settings_are_refused_at_construction(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        curious(Spy(), **settings)


def test_only_the_rounds_and_clients_asked_for_are_attacked():
    strategy = curious(Spy(), rounds=[2, 3], most=1)
    _, audited = run(strategy, rounds=3)
    seen = [(o.round, o.client) for o in strategy.observations]
    assert [server_round for server_round, _ in seen] == [2, 3]
    everyone = curious(Spy())
    _, watched = run(everyone, rounds=3)
    lowest = {r: min(o.client for o in everyone.observations if o.round == r) for r in (2, 3)}
    assert dict(seen) == lowest
    assert same_bits(audited, watched)


@pytest.mark.parametrize(("setting", "named"), [({"rounds": [0]}, "0"), ({"most": 0}, "most=0")])
def test_rounds_and_clients_that_cannot_be_are_refused(setting, named):
    with pytest.raises(ValueError, match=named):
        curious(Spy(), **setting)
