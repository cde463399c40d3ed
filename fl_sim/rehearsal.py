"""One round of a strategy with understudies for clients, before anything trains.

Whatever a strategy sends and whatever it makes of the replies shows in a round: entries that the
clients would not follow, metrics they do not report, too few of them to aggregate, evaluation they
do not do. The understudies answer at once, with the weights they got, shifted at random. A strategy
behind secure aggregation is asked twice, the second time with the mean in place of every update: if
that changes what it makes of them, it needs to see single updates, which this server does not.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from flwr.serverapp.strategy import Strategy
from torch import nn

from fl_sim.aggregation import SERVER_CLIPS, clipping_of, layers, name_of
from fl_sim.backends.inline import InlineGrid
from fl_sim.errors import ScenarioError
from fl_sim.instructions import Instructions
from strategies.cohort import PARTITION_KEY
from strategies.limits import untouched_randomness
from strategies.told import LEARNING_RATE

SHIFT = 1e-2
"""Standard deviation of what an understudy adds to every weight."""

SAME = 1e-2
"""Relative difference up to which two aggregates are the same."""

EPS = float(np.finfo(np.float32).eps)
"""Relative rounding of a weight."""

PATIENCE = 5
"""How often a strategy may look for nodes in one round; Flower waits a second between two looks."""


def rehearse(
    build: Callable[[], Strategy],
    name: str,
    model: nn.Module,
    replies: int,
    lr: float,
    metrics: MetricRecord,
    *,
    gradients: bool = False,
    sum_only: bool = False,
) -> Instructions:
    """Run one round of a strategy, and refuse it if that fails.

    Parameters
    ----------
    build : callable () -> Strategy
        Makes a new one each time; none that is played with here is used afterwards.
    name : str
        How sentences name it.
    model : nn.Module
        In the state to be sent first.
    replies : int
        Clients per round, at least 1.
    lr : float
        The clients' learning rate.
    metrics : flwr.app.MetricRecord
        What a client reports.
    gradients : bool, default False
        Whether clients return the gradients of the trainable parameters, not all weights.
    sum_only : bool, default False
        Whether the server sees the updates' weighted mean only.

    Returns
    -------
    Instructions
        What the first client is told.

    Raises
    ------
    ScenarioError
        Saying what does not fit.
    """
    with quietly():
        strategy, sent = build(), ArrayRecord(model.state_dict())
    for one in layers(strategy):
        if sum_only and isinstance(one, SERVER_CLIPS):
            raise ScenarioError(_needs_singles(type(one).__name__))
    _refuse_unreported(strategy, metrics)
    names = [n for n, p in model.named_parameters() if p.requires_grad] if gradients else list(sent)
    stage = Stage(understudies(names, metrics, clipping_of(strategy)), replies)
    with quietly() as warnings, untouched_randomness():
        messages = _sent_by(strategy, name, sent, lr, stage)
        told = _told(strategy, name, messages, list(sent))
        answers = list(stage.send_and_receive(messages))
        means = averaged(answers) if sum_only else []
        single = _aggregated(strategy, name, answers, warnings)
        if list(strategy.configure_evaluate(1, sent, ConfigRecord(), stage)):
            raise ScenarioError(f"{name} evaluates on clients, and these clients only train.")
        if sum_only:
            other = build()
            _sent_by(other, name, sent, lr, Stage(ClientApp(), replies))
            if not same_step(sent, single, _aggregated(other, name, means, warnings)):
                raise ScenarioError(_needs_singles(name))
    return told


class Stage(InlineGrid):
    """A grid that does not let a strategy wait for nodes for ever.

    Parameters
    ----------
    client_app : flwr.clientapp.ClientApp
    count : int
        Number of nodes.
    """

    def __init__(self, client_app: ClientApp, count: int) -> None:
        super().__init__(client_app, count)
        self.count = count
        self.looks = 0

    def get_node_ids(self) -> Any:
        """Return the nodes; raise `ScenarioError` when asked too often."""
        self.looks += 1
        if self.looks > PATIENCE:
            raise ScenarioError(
                f"The strategy waits for more clients than clients.per_round={self.count}."
            )
        return super().get_node_ids()


def understudies(names: list[str], metrics: MetricRecord, clipping: Mod | None) -> ClientApp:
    """Return clients that shift the arrays they get by random numbers.

    Parameters
    ----------
    names : list of str
        Of the arrays to return.
    metrics : flwr.app.MetricRecord
        To return.
    clipping : Flower client mod, optional
        To put around them.

    Returns
    -------
    ClientApp
    """
    app = ClientApp(mods=[] if clipping is None else [clipping])

    @app.train()
    def answer(message: Message, context: Context) -> Message:
        (arrays,) = message.content.array_records.values()
        draws = np.random.default_rng(int(context.node_config[PARTITION_KEY]))  # type: ignore[arg-type]
        update = ArrayRecord()
        for name in names:
            value = arrays[name].numpy()
            if np.issubdtype(value.dtype, np.floating):
                value = value + SHIFT * draws.standard_normal(value.shape).astype(value.dtype)
            update[name] = Array(np.asarray(value, order="C"))
        content = RecordDict({"arrays": update, "metrics": MetricRecord(dict(metrics))})
        return Message(content=content, reply_to=message)

    return app


def averaged(replies: list[Message]) -> list[Message]:
    """Return copies of replies that all hold the mean of their arrays, as secure aggregation does.

    Parameters
    ----------
    replies : list of Message
        At least one, none with an error; weights count alike, and so do names.
    """
    records = [next(iter(reply.content.array_records.values())) for reply in replies]
    alike = []
    for reply in replies:
        update = ArrayRecord()
        for name, array in records[0].items():
            mean = np.mean([record[name].numpy() for record in records], axis=0, dtype=np.float64)
            update[name] = Array(np.asarray(mean, dtype=array.numpy().dtype, order="C"))
        content: dict[str, Any] = {
            key: update if isinstance(record, ArrayRecord) else copy.deepcopy(record)
            for key, record in reply.content.items()
        }
        twin = copy.copy(reply)
        twin.content = RecordDict(content)
        alike.append(twin)
    return alike


def same_step(sent: ArrayRecord, one: ArrayRecord, other: ArrayRecord) -> bool:
    """Tell whether two sets of weights moved alike from those sent, up to `SAME` and rounding."""
    moved, apart, rounding = 0.0, 0.0, 0.0
    for name in sent:
        start, a, b = (r[name].numpy().astype(np.float64) for r in (sent, one, other))
        moved = max(moved, float(np.abs(a - start).max(initial=0)))
        apart = max(apart, float(np.abs(a - b).max(initial=0)))
        rounding = max(rounding, 4 * EPS * float(np.abs(start).max(initial=0)))
    return apart <= SAME * moved + rounding


def _sent_by(
    strategy: Strategy, name: str, sent: ArrayRecord, lr: float, stage: Stage
) -> list[Message]:
    config = ConfigRecord({LEARNING_RATE: lr})
    try:
        return list(strategy.configure_train(1, sent, config, stage))
    except ScenarioError:
        raise
    except Exception as error:
        raise ScenarioError(f"{name} sends nothing: {in_a_line(error)}") from error


def _told(strategy: Strategy, name: str, messages: list[Message], names: list[str]) -> Instructions:
    """Return what the first of the messages tells, after all have been looked at."""
    if not messages:
        raise ScenarioError(f"{name} asks no client to train.")
    clips = clipping_of(strategy) is not None
    each = []
    for message in messages:
        records = list(message.content.array_records.values())
        if len(records) != 1 or message.content.metric_records:
            raise ScenarioError(f"{name} sends more than weights and a configuration.")
        if list(records[0]) != names:
            raise ScenarioError(f"{name} sends other arrays than the model's.")
        try:
            each.append(Instructions.of(message.content, 1.0, clips=clips))
        except ValueError as error:
            raise ScenarioError(f"{name} cannot be followed: {error}") from error
    return each[0]


def _aggregated(
    strategy: Strategy, name: str, replies: list[Message], warnings: list[str]
) -> ArrayRecord:
    try:
        arrays, _ = strategy.aggregate_train(1, replies)
    except Exception as error:
        raise ScenarioError(
            f"{name} cannot aggregate what these clients return: {in_a_line(error)}"
        ) from error
    if arrays is None:
        why = f": {warnings[-1]}" if warnings else "."
        raise ScenarioError(
            f"{name} makes nothing of clients.per_round={len(replies)} replies{why}"
        )
    return arrays


def _refuse_unreported(strategy: Strategy, metrics: MetricRecord) -> None:
    """Say at once which loss is missing; others are found out in the round."""
    for one in layers(strategy):
        wanted = getattr(one, "train_loss_key", None)
        if wanted is not None and wanted not in metrics:
            raise ScenarioError(
                f"{name_of(one)} needs the metric {wanted!r} from clients, which report "
                f"{', '.join(map(repr, metrics))} alone (beside a defence with a guarantee they "
                "keep their loss to themselves)."
            )


def _needs_singles(name: str) -> str:
    return (
        f"{name} looks at the clients' updates one by one, and under secure aggregation the server "
        "sees only their sum; choose another strategy."
    )


def in_a_line(error: BaseException) -> str:
    """Return an error as one line, without its type where it says something."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def quietly() -> Iterator[list[str]]:
    """Keep Flower from logging inside the block, and collect its warnings in the list yielded."""
    flower, said = logging.getLogger("flwr"), []

    def note(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            said.append(" ".join(record.getMessage().split()))
        return False

    flower.addFilter(note)
    try:
        yield said
    finally:
        flower.removeFilter(note)
