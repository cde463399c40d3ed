"""An audit around any of Flower's strategies changes nothing that strategy or clients see of each
other, bit for bit, in somebody else's app whose clients follow what they are told."""

import random

import flwr.serverapp.strategy as flower
import numpy as np
import pytest
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp.strategy import FedAvg

from strategies import HonestButCurious, StrategyWrapper
from tests.strategies.apps import LR, Spy, build_model, same_bits
from tests.strategies.following import following_app, run_told, written
from tests.strategies.test_told import ALONE

EXTRA = {
    "FedProx": {"proximal_mu": 0.3},
    "QFedAvg": {"client_learning_rate": LR, "q": 0.5},
    "FedAvgM": {"server_momentum": 0.5},
    "Bulyan": {"num_malicious_nodes": 0},
}
TREES = {"FedXgbBagging", "FedXgbCyclic"}
WRAPPABLE = [n for n in flower.__all__ if n not in {"Result", "Strategy", *TREES}]


def strategy_of(name):
    kind = getattr(flower, name)
    if name.startswith("DifferentialPrivacy"):
        bound = {} if "Adaptive" in name else {"clipping_norm": 0.05}
        return kind(FedAvg(**ALONE), noise_multiplier=0.1, num_sampled_clients=5, **bound)
    return kind(**ALONE, **EXTRA.get(name, {}))


class Overheard(StrategyWrapper):
    """Notes what the strategy is handed to aggregate, in order."""

    def __init__(self, strategy):
        super().__init__(strategy)
        self.heard = []

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        self.heard += [
            (r.metadata.src_node_id, written(r.content["arrays"]), dict(r.content["metrics"]))
            for r in replies
        ]
        return super().aggregate_train(server_round, replies)


@pytest.mark.parametrize("name", WRAPPABLE)
def test_an_audit_changes_nothing_that_strategy_or_clients_see(name):
    mods = {
        "DifferentialPrivacyClientSideFixedClipping": [fixedclipping_mod],
        "DifferentialPrivacyClientSideAdaptiveClipping": [adaptiveclipping_mod],
    }.get(name, [])

    def audit(wrap):
        np.random.seed(7)
        random.seed(7)
        log, overheard = [], Overheard(strategy_of(name))
        app = following_app(mods, log)
        weights = run_told(wrap(overheard), app, {"lr": LR}, clients=5, rounds=2)
        return weights, log, overheard.heard

    spy = Spy()
    plain = audit(lambda strategy: strategy)
    audited = audit(lambda strategy: HonestButCurious(strategy, spy, build_model))
    assert same_bits(plain[0], audited[0])
    assert plain[1] == audited[1]
    assert plain[2] == audited[2]
    assert len(spy.problems) == 10
    assert len(plain[1]) == len(plain[2]) == 10
