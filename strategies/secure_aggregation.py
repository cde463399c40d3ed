"""The curious server under secure aggregation: it sees the cohort's sum and nothing else.

Secure aggregation (Bonawitz et al. 2017; Flower's SecAgg+) lets the server learn the sum of the
clients' updates, weighted by their example counts, while each single update stays hidden. Here the
sum is ideal: added up in float64, without clipping or quantisation. A sum of gradients taken at
the same parameters is the gradient of a larger batch, so an attack reads the union of the batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord

from attacks.base import Knowledge
from strategies.adversary import COHORT, HonestButCurious, Observation
from strategies.limits import untouched_randomness
from strategies.update import InvalidUpdate, arrays_of, check_update, tensor

WEIGHT_METRIC = "num-examples"
"""Metric by which clients are weighted; they assert it themselves."""


class SecureAggregation(HonestButCurious):
    """Attack the weighted mean of each round's updates, the only thing this server looks at.

    All settings are those of `HonestButCurious`. One observation is made per round; its `client`
    is `COHORT` and its `clients` are those whose updates are in the sum, one for each reply.
    Clients that fail to answer are left out of the sum, as the protocol does after its recovery
    phase. The wrapped strategy aggregates as ever, so training is the same, bit for bit.
    """

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Attack the sum of the replies, then hand all of them to the strategy."""
        replies = list(replies)
        if self.attacks_in(server_round):
            with untouched_randomness():
                observation = self._observe_sum(server_round, replies)
            self._report(observation)
        return self.strategy.aggregate_train(server_round, replies)

    def _observe_sum(self, server_round: int, replies: list[Message]) -> Observation:
        asked = list(self._by_client(replies))
        answers = [(c, r) for c, r in asked if r is not None and not r.has_error()]
        members = tuple(client for client, _ in answers or asked)
        nobody = Observation(server_round, COHORT, clients=members)
        if not answers:
            return replace(nobody, status="client_failed", message="No client answered.")
        received = [reply for _, reply in answers]
        node = received[0].metadata.src_node_id
        sent = self._round.sent[node]
        model = self._sent_model(sent)
        try:
            self._refuse_unlike_work(received)
            total = weighted_mean(received, sent, self._expected(sent))
            view = self._view(model, node, total)
        except InvalidUpdate as error:
            return replace(nobody, status="invalid_update", message=str(error))
        knows = pooled([self._granted(server_round, client, model) for client in members])
        view = replace(view, knows=knows)
        observation = replace(self._attack(server_round, COHORT, view), clients=members)
        if missing := len(asked) - len(answers):
            told = f"{missing} of {len(asked)} clients did not answer."
            observation = replace(observation, message=f"{observation.message} {told}".strip())
        return observation

    def _refuse_unlike_work(self, received: list[Message]) -> None:
        """Raise `InvalidUpdate` if clients were told to work differently."""
        works = [self._work_of(reply.metadata.src_node_id) for reply in received]
        if unlike := [work for work in works if work != works[0]]:
            raise InvalidUpdate(
                "The sum of the updates is no gradient, since the clients were told to work "
                f"differently: {works[0]} and {unlike[0]}."
            )

    def _expected(self, sent: ArrayRecord) -> list[str]:
        """Return the names every reply has to hold for the sum to be possible."""
        if self.reply == "weights":
            return list(sent)
        return [name for name, p in self.model_fn().named_parameters() if p.requires_grad]


def weighted_mean(
    replies: Sequence[Message], sent: ArrayRecord, expected: Iterable[str]
) -> ArrayRecord:
    """Return what an ideal secure aggregation reveals: ``sum_c n_c u_c / sum_c n_c`` in float64.

    Parameters
    ----------
    replies : sequence of Message
        At least one; each says its weight n_c in the metric `WEIGHT_METRIC`.
    sent : ArrayRecord
        What all of them had been sent.
    expected : iterable of str
        Names each must hold.

    Raises
    ------
    InvalidUpdate
        If a reply cannot be added to the others.
    """
    expected = list(expected)
    for reply in replies:
        check_update(arrays_of(reply), sent, expected)
    weights = torch.tensor([_weight(reply) for reply in replies], dtype=torch.float64)
    shares = weights / weights.sum()
    total = ArrayRecord()
    for name in expected:
        parts = [tensor(arrays_of(reply), name).double() for reply in replies]
        mean = sum(share * part for share, part in zip(shares, parts, strict=True))
        assert isinstance(mean, torch.Tensor)
        total[name] = Array(mean.numpy())
    return total


def pooled(grants: Sequence[Knowledge]) -> Knowledge:
    """Return what is granted about several batches as a grant about their union."""
    labels = [g.labels for g in grants if g.labels is not None]
    sizes = [g.batch_size for g in grants if g.batch_size is not None]
    seen = [g.batchnorm_statistics for g in grants if g.batchnorm_statistics is not None]
    whole = len(grants)
    return Knowledge(
        labels=torch.cat(labels) if labels and len(labels) == whole else None,
        batch_size=sum(sizes) if sizes and len(sizes) == whole else None,
        data_range=grants[0].data_range if grants else None,
        batchnorm_statistics=_pooled_statistics(seen) if seen and len(seen) == whole else None,
    )


Statistics = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


def _pooled_statistics(seen: Sequence[Statistics]) -> Statistics:
    """Return mean and variance over the union of equally large batches."""
    union = {}
    for layer in seen[0]:
        means = torch.stack([statistics[layer][0] for statistics in seen])
        variances = torch.stack([statistics[layer][1] for statistics in seen])
        union[layer] = means.mean(0), variances.mean(0) + means.var(0, unbiased=False)
    return union


def _weight(reply: Message) -> float:
    for metrics in reply.content.metric_records.values():
        if WEIGHT_METRIC in metrics:
            weight = float(metrics[WEIGHT_METRIC])  # type: ignore[arg-type]
            if weight > 0:
                return weight
            raise InvalidUpdate(f"A client says {WEIGHT_METRIC}={weight:g}, which is no weight.")
    raise InvalidUpdate(f"A client does not say {WEIGHT_METRIC}, its weight in the sum.")
