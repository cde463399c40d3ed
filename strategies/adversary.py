"""The honest-but-curious server: look at every reply, attack it, pass it on untouched."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import nn

from attacks.base import Attack, Knowledge, LocalWork, Loss, NotApplicable, Reconstruction
from strategies.cohort import PARTITION_KEY
from strategies.limits import Stopped, TimedOut, untouched_randomness, with_timeout
from strategies.seeds import Use, generator_for
from strategies.told import as_told, told
from strategies.update import InvalidUpdate, ReplyKind, UpdateRule, arrays_of, tensor
from strategies.view import ServerView
from strategies.wrapper import StrategyWrapper

COHORT = -1
"""Stands for all clients of a round together, where only their sum can be seen."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Observation:
    """What the adversary made of one update in one round.

    Attributes
    ----------
    round : int
        Server round, from 1.
    client : int
        Partition the client says it holds, or its node id where it does not say; `COHORT` for
        the sum over several.
    status : str
        "ok", "timeout", "interrupted" (by the user), "attack_failed", "not_applicable",
        "invalid_update" or "client_failed".
    message : str
        Why, where status is not "ok" or the attack gives a reason for finding little
        (``info["reason"]``).
    found : Reconstruction, optional
        What the attack returned.
    clients : tuple of int
        Whose updates are in what was attacked, if not `client` alone.
    """

    round: int
    client: int
    status: str = "ok"
    message: str = ""
    found: Reconstruction | None = None
    clients: tuple[int, ...] = ()


@dataclass
class _Round:
    """What was sent to which node, and what it was told, in the round under way."""

    sent: dict[int, ArrayRecord] = field(default_factory=dict)
    told: dict[int, dict[str, Any]] = field(default_factory=dict)


class HonestButCurious(StrategyWrapper):
    """Attack every reply of a strategy's clients, and change nothing that anybody else can see.

    Parameters
    ----------
    strategy : flwr.serverapp.strategy.Strategy
        The strategy to audit; its training is the same, bit for bit, with and without.
    attack : attacks.Attack
        What to run on each single gradient.
    model_fn : callable
        Builds the architecture; its parameters are overwritten by those that were sent.
    reply : "weights" or "gradient", default "weights"
        What the clients return.
    lr : float, optional
        The clients' learning rate; by default the entry "lr" of what each of them was sent, or of
        the training configuration where the strategy does not pass it on.
    local_steps : int, default 1
        Optimiser steps behind each reply.
    momentum : float, default 0.0
        Of those steps.
    optimizer : str, default "sgd"
        Their name.
    input_shape : tuple of int, optional
        Shape of one input of the model.
    loss : "cross_entropy" or "mse", default "cross_entropy"
        The clients' loss.
    knows : Knowledge, or callable (round, client, model) -> Knowledge, optional
        What the threat model grants; by default nothing. The model holds what the client was sent.
    timeout : float, optional
        Seconds one attack may take; what it found until then is kept.
    rounds : collection of int, optional
        Rounds, from 1, in which to attack; by default all.
    most : int, optional
        Most replies to attack in a round, those of the clients with the lowest numbers; by
        default all.
    seed : int, default 0
        Seed of the attacks' randomness, together with round and client.
    device : str or torch.device, default "cpu"
        Where attacks run.
    client_of : callable (node id) -> int, optional
        Names clients whose reply does not.
    on_observation : callable (Observation) -> None, optional
        Called after each attack; without it, `observations` collects them all.

    Raises
    ------
    ValueError
        At construction, if a value is out of its range.
    """

    def __init__(
        self,
        strategy: Strategy,
        attack: Attack,
        model_fn: Callable[[], nn.Module],
        *,
        reply: ReplyKind = "weights",
        lr: float | None = None,
        local_steps: int = 1,
        momentum: float = 0.0,
        optimizer: str = "sgd",
        input_shape: tuple[int, ...] | None = None,
        loss: Loss = "cross_entropy",
        knows: Knowledge | Callable[[int, int, nn.Module], Knowledge] | None = None,
        timeout: float | None = None,
        rounds: Collection[int] | None = None,
        most: int | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
        client_of: Callable[[int], int] | None = None,
        on_observation: Callable[[Observation], None] | None = None,
    ) -> None:
        super().__init__(strategy)
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout={timeout!r} must be positive, or None for no limit.")
        if most is not None and most < 1:
            raise ValueError(f"most={most!r} must be at least 1, or None for all clients.")
        if early := [number for number in rounds or () if number < 1]:
            raise ValueError(f"rounds has {early[0]!r}; rounds count from 1.")
        UpdateRule(reply, 1.0 if lr is None else lr, local_steps)  # refuse bad values at once
        self.attack = attack
        self.model_fn = model_fn
        self.reply: ReplyKind = reply
        self.lr = lr
        self.local_steps = local_steps
        self.momentum = momentum
        self.optimizer = optimizer
        self.input_shape = input_shape
        self.loss: Loss = loss
        self.knows = knows
        self.timeout = timeout
        self.rounds = rounds
        self.most = most
        self.seed = seed
        self.device = torch.device(device)
        self.client_of = client_of or (lambda node_id: node_id)
        self.observations: list[Observation] = []
        self.on_observation = on_observation or self.observations.append
        self._round = _Round()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember what the strategy sends to each client."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self._round = _Round(
            sent={message.metadata.dst_node_id: arrays_of(message) for message in messages},
            told={m.metadata.dst_node_id: {**config, **told(m.content)} for m in messages},
        )
        for node in self._round.told:
            self._work_of(node)  # refuse to go on without a learning rate before any client worked
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Attack the replies, then hand all of them to the strategy."""
        replies = list(replies)
        looked_at = (
            islice(self._by_client(replies), self.most) if self.attacks_in(server_round) else ()
        )
        for client, reply in looked_at:
            with untouched_randomness():
                observation = self._observe(server_round, client, reply)
            self._report(observation)
        return super().aggregate_train(server_round, replies)

    def _report(self, observation: Observation) -> None:
        """Hand an observation on; what the user interrupted ends here, with its result kept."""
        self.on_observation(observation)
        if observation.status == "interrupted":
            raise KeyboardInterrupt

    def attacks_in(self, server_round: int) -> bool:
        """Tell whether a round's updates are attacked."""
        return self.rounds is None or server_round in self.rounds

    def _by_client(self, replies: list[Message]) -> Iterator[tuple[int, Message | None]]:
        """Yield each client that was asked, with its reply if there is one, in a fixed order."""
        answered = {reply.metadata.src_node_id: reply for reply in replies}
        named = [
            (self._name(node, answered.get(node)), answered.get(node)) for node in self._round.sent
        ]
        yield from sorted(named, key=lambda pair: pair[0])

    def _name(self, node: int, reply: Message | None) -> int:
        if reply is not None and not reply.has_error():
            for metrics in reply.content.metric_records.values():
                if PARTITION_KEY in metrics:
                    return int(metrics[PARTITION_KEY])  # type: ignore[arg-type]
        return self.client_of(node)

    def _observe(self, server_round: int, client: int, reply: Message | None) -> Observation:
        if reply is None:
            return Observation(server_round, client, "client_failed", "No reply in time.")
        if reply.has_error():
            return Observation(server_round, client, "client_failed", _one_line(reply.error.reason))
        node = reply.metadata.src_node_id
        model = self._sent_model(self._round.sent[node])
        try:
            view = self._view(model, node, arrays_of(reply))
        except InvalidUpdate as error:
            return Observation(server_round, client, "invalid_update", str(error))
        knows = self._granted(server_round, client, model)
        return self._attack(server_round, client, replace(view, knows=knows))

    def _granted(self, server_round: int, client: int, model: nn.Module) -> Knowledge:
        knows = self.knows(server_round, client, model) if callable(self.knows) else self.knows
        return knows or Knowledge()

    def _sent_model(self, sent: ArrayRecord) -> nn.Module:
        """Return the model as it had been sent, on the attacks' device."""
        model = self.model_fn()
        model.load_state_dict({name: tensor(sent, name) for name in sent})
        return model.to(self.device)

    def _view(self, model: nn.Module, node: int, returned: ArrayRecord) -> ServerView:
        """Return what an update says to somebody who knows what that node had been sent."""
        work = self._work_of(node)
        rule = UpdateRule(self.reply, work.lr, self.local_steps)
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        gradient = rule.gradient(returned, self._round.sent[node], names)
        return ServerView(
            model=model,
            gradient={name: value.to(self.device) for name, value in gradient.items()},
            input_shape=self.input_shape,
            loss=self.loss,
            knows=Knowledge(),
            local=work,
        )

    def _work_of(self, node: int) -> LocalWork:
        """Return the local work behind a node's reply, after what it was told."""
        planned = LocalWork(self.local_steps, self.lr, self.momentum, self.optimizer)
        work = as_told(planned, self._round.told[node])
        if work.lr is None and self.reply == "weights":
            raise ValueError(
                "Weights need the clients' learning rate to become a gradient: pass lr=, or send "
                "it as 'lr' in train_config."
            )
        return work

    def _attack(self, server_round: int, client: int, view: ServerView) -> Observation:
        generator = generator_for(Use.ATTACK, self.seed, server_round, client)
        try:
            found, late = with_timeout(
                lambda: view.attacked_by(self.attack, generator), self.timeout
            )
        except Stopped as stop:
            told = "nothing" if stop.result is None else len(stop.result)
            message = f"Stopped by the user; {told} found until then."
            return Observation(server_round, client, "interrupted", message, stop.result)
        except TimedOut as error:
            return Observation(server_round, client, "timeout", f"The attack was {error}.")
        except NotApplicable as error:
            return Observation(server_round, client, "not_applicable", _one_line(str(error)))
        except Exception as error:
            log.debug("The attack on client %s failed.", client, exc_info=True)
            reason = f"{type(error).__name__}: {_one_line(str(error))}"
            return Observation(server_round, client, "attack_failed", reason)
        if late:
            message = f"Stopped after {self.timeout:g} s; {len(found)} found until then."
            return Observation(server_round, client, "timeout", message, found)
        return Observation(server_round, client, "ok", str(found.info.get("reason", "")), found)


def _one_line(text: str | None) -> str:
    """Return the first line of a message that says something."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[0] if lines else "no reason given"
