"""The Flower ServerApp of a scenario, and the strategies it stacks.

From the inside out: any Flower strategy aggregates, within the defences a server can have; `FedSGD`
steps where clients send gradients; `DropInvalidUpdates` keeps broken updates away from it;
`SeededCohort` draws the clients; the adversary, if there is one, sees every reply first and changes
nothing. A strategy that these clients could not serve is refused after a rehearsal.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy
from torch import nn

from fl_sim.aggregation import (
    PRIVATE,
    aggregation_of,
    layers,
    name_of,
    sees_the_sum_only,
)
from fl_sim.budget import standing
from fl_sim.client import metrics_of
from fl_sim.config import ScenarioConfig
from fl_sim.defenses import Cohort, Defense, build_defenses
from fl_sim.defenses.central_dp import SeededNoise
from fl_sim.federation import Federation
from fl_sim.grants import granted
from fl_sim.instantiate import instantiate
from fl_sim.losses import LOSSES, predicted
from fl_sim.models import build_model
from fl_sim.records import TrainingRow
from fl_sim.rehearsal import quietly, rehearse
from fl_sim.suitability import check_aggregation, check_proximal
from strategies import DropInvalidUpdates, FedSGD, Observation, SeededCohort

L = TypeVar("L", bound=Strategy)

log = logging.getLogger(__name__)


def model_of(config: ScenarioConfig, federation: Federation) -> nn.Module:
    """Build the scenario's model in its initial state; equal seeds give equal bits.

    Parameters
    ----------
    config : ScenarioConfig
        Read are `model` and `seed`.
    federation : Federation
        Knows the images' shape and the number of classes.

    Raises
    ------
    ValueError
        If the model has no such setting or refuses its value.
    """
    data = federation.data
    return build_model(config.model, data.image_shape, data.num_classes, config.seed)


def trainer_of(config: ScenarioConfig, defenses: Sequence[Defense]) -> Strategy:
    """Build what makes new weights of the clients' replies, whichever they are.

    Parameters
    ----------
    config : ScenarioConfig
        Read are `strategy`, `clients` and `seed`.
    defenses : sequence of Defense
        Those with a part on the server wrap the strategy that aggregates.

    Raises
    ------
    ValueError
        If the strategy cannot be built, or a defence refuses it.
    """
    clients = config.clients
    strategy = aggregation_of(config)
    members = Cohort(clients.count, clients.per_round, str(clients.reply), config.seed)
    noisy = any(isinstance(one, PRIVATE) for one in layers(strategy))
    for defense in defenses:
        strategy = defense.on_server(strategy, members)
    if noisy:
        strategy = SeededNoise(strategy, config.seed)
    return FedSGD(strategy, clients.lr) if clients.reply == "gradient" else strategy


def build_strategy(
    config: ScenarioConfig,
    federation: Federation,
    model: nn.Module,
    on_observation: Callable[[Observation], None],
) -> Strategy:
    """Stack the strategies of a scenario.

    Parameters
    ----------
    config : ScenarioConfig
        Read are `strategy`, `attack`, `defense`, `clients`, `loss`, `seed` and `device`.
    federation : Federation
        Asked for what `attack.knows` grants, by name.
    model : nn.Module
        The initial model; its parameter names are what a gradient reply must hold.
    on_observation : callable
        Gets what the adversary made of each reply.

    Returns
    -------
    flwr.serverapp.strategy.Strategy
        The outermost of the stack.

    Raises
    ------
    ValueError
        If a strategy, attack or defence refuses its settings, the model, or the clients' replies.
    """
    clients = config.clients
    defenses = build_defenses(config.defense)
    if len(standing(defenses)) < len(defenses):
        log.warning(
            "dp_sgd states no epsilon here: beside mixup or Soteria, what one sample changes is "
            "not bounded by its own gradient."
        )
    for defense in defenses:
        defense.check(model, str(clients.reply))
    names = None
    if clients.reply == "gradient":
        names = [name for name, p in model.named_parameters() if p.requires_grad]
    with quietly():
        aggregation = aggregation_of(config)
    check_aggregation(aggregation, config, model)
    told = rehearse(
        lambda: trainer_of(config, defenses),
        name_of(aggregation),
        model,
        clients.per_round,
        clients.lr,
        metrics_of(defenses, client=0, examples=clients.batch_size, loss=1.0),
        gradients=clients.reply == "gradient",
        sum_only=sees_the_sum_only(config),
    )
    check_proximal(told, config)
    strategy = DropInvalidUpdates(trainer_of(config, defenses), names)
    cohort = SeededCohort(strategy, clients.per_round, config.seed)
    if config.strategy.adversary is None or config.attack.method is None:
        return cohort
    return instantiate(
        config.strategy.adversary,
        strategy=cohort,
        attack=instantiate(config.attack.method),
        model_fn=lambda: model_of(config, federation),
        reply=str(clients.reply),
        lr=None,  # what each client is told
        local_steps=clients.local_steps,
        momentum=clients.momentum,
        optimizer=str(clients.optimizer),
        input_shape=federation.data.image_shape,
        loss=str(config.loss),
        knows=granted(config.attack.knows, federation, model),
        timeout=config.attack.timeout,
        rounds=config.attack.rounds,
        most=config.attack.most,
        seed=config.seed,
        device=config.device,
        client_of=cohort.client_of,
        on_observation=on_observation,
    )


@dataclass
class Server:
    """The server of one scenario.

    Attributes
    ----------
    strategy : flwr.serverapp.strategy.Strategy
        Runs the rounds.
    model : nn.Module
        Holds the initial parameters.
    on_training : callable
        Gets test loss and accuracy after each round.
    error : BaseException or None
        What ended the server early; backends may report errors in their own words.
    """

    config: ScenarioConfig
    federation: Federation
    strategy: Strategy
    model: nn.Module
    on_training: Callable[[TrainingRow], None]
    error: BaseException | None = field(default=None, init=False)

    def app(self) -> ServerApp:
        """Return the Flower application of this server."""
        app = ServerApp()

        @app.main()
        def main(grid: Grid, context: Context) -> None:
            try:
                self.strategy.start(
                    grid=grid,
                    initial_arrays=ArrayRecord(self.model.state_dict()),
                    num_rounds=self.config.rounds,
                    timeout=self.config.round_timeout,
                    train_config=ConfigRecord({"lr": self.config.clients.lr}),
                    evaluate_fn=self._evaluate,
                )
            except BaseException as error:
                self.error = error
                raise

        return app

    def _evaluate(self, server_round: int, arrays: ArrayRecord) -> MetricRecord:
        self.model.load_state_dict(arrays.to_torch_state_dict())
        row = evaluate_model(self.model, self.federation, self.config, server_round)
        if server_round:
            row = self._with_clients(row)
        self.on_training(row)
        loss = {} if row.loss is None else {"loss": row.loss}
        return MetricRecord({**loss, "accuracy": row.accuracy})

    def _with_clients(self, row: TrainingRow) -> TrainingRow:
        """Add who took part in the round that has just ended."""
        guard, cohort = layer(self.strategy, DropInvalidUpdates), layer(self.strategy, SeededCohort)
        lost = sorted((cohort.client_of(node), why) for node, why in guard.unused.items())
        failures = {str(client): why for client, why in lost}
        return replace(row, asked=guard.asked, answered=guard.asked - len(lost), failures=failures)


def layer(strategy: Any, kind: type[L]) -> L:
    """Return the one of a stack of strategies that is of a kind."""
    while not isinstance(strategy, kind):
        strategy = strategy.strategy
    return strategy


@torch.no_grad()
def evaluate_model(
    model: nn.Module, federation: Federation, config: ScenarioConfig, server_round: int
) -> TrainingRow:
    """Measure loss and accuracy over the test images.

    Parameters
    ----------
    model : nn.Module
        Is left in evaluation mode, on the scenario's device.
    federation : Federation
    config : ScenarioConfig
        Read are `data`, `device` and `loss`.
    server_round : int
        After which round; 0 for the initial model.

    Returns
    -------
    TrainingRow
        Mean loss, and accuracy as the share of right answers, 0 to 1.
    """
    limit = config.data.test_samples
    images, labels = federation.data.test_images[:limit], federation.data.test_labels[:limit]
    model = model.eval().to(config.device)
    loss, right = 0.0, 0
    for x, y in zip(images.split(500), labels.split(500), strict=True):
        output = model(federation.inputs(x).to(config.device))
        target = federation.target(y).to(config.device)
        loss += float(LOSSES[str(config.loss)](output, target)) * len(y)
        right += int((predicted(output).cpu() == y).sum())
    count = max(len(labels), 1)
    mean = loss / count if math.isfinite(loss) else None
    return TrainingRow(server_round, mean, right / count, tested=len(labels))
