"""The server that puts rounds together: what one update gave away is looked for in later ones.

For each client it keeps every certified sample. Each further update of the client is attacked as
ever, and then asked for the samples known already: those in its row space were in its batch, also
where the attack itself finds nothing (trained models, confident samples).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attacks.base import NotApplicable, Problem, Reconstruction
from attacks.recognition import OUTSIDE, outside
from strategies.adversary import HonestButCurious, Observation
from strategies.view import ServerView

SAME = 1e-2
"""Relative distance up to which two reconstructions are of one sample."""


@dataclass(frozen=True)
class Known:
    """Certified samples of one client.

    Attributes
    ----------
    inputs : Tensor of shape (n, *input_shape)
    labels : Tensor of shape (n,), optional
    """

    inputs: Tensor
    labels: Tensor | None


class Remembering(HonestButCurious):
    """Attack every reply, and recognise what earlier replies of the same client gave away.

    All settings are those of `HonestButCurious`. Results say, in ``info``: `recognised`, samples
    known before and not found anew; `new`, certified samples seen for the first time; `known`,
    all the client's certified samples so far.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.known: dict[int, Known] = {}

    def _attack(self, server_round: int, client: int, view: ServerView) -> Observation:
        observation = super()._attack(server_round, client, view)
        if observation.found is None:
            return observation
        found, before = observation.found, self.known.get(client)
        recognised = 0
        if before is not None:
            more = recalled(view, before, found)
            recognised, found = len(more.inputs), joined(found, more)
        sure = Known(
            found.inputs[found.certified],
            None if found.labels is None else found.labels[found.certified],
        )
        after = sure if before is None else united(before, sure)
        self.known[client] = after
        new = len(after.inputs) - (0 if before is None else len(before.inputs))
        info = {**found.info, "recognised": recognised, "new": new, "known": len(after.inputs)}
        return replace(observation, found=replace(found, info=info))


def recalled(view: ServerView, known: Known, found: Reconstruction) -> Known:
    """Return the known samples that are in an update and not among what was found in it.

    Parameters
    ----------
    view : ServerView
        Of the update; its model has to be one that `attacks.recognition` can ask.
    known : Known
    found : Reconstruction
        What the attack made of the same update.

    Returns
    -------
    Known
        None of them where the model cannot be asked.
    """
    problem = Problem(
        model=view.model,
        gradient=view.gradient,
        input_shape=view.input_shape,
        loss=view.loss,
        knows=view.knows,
        generator=torch.Generator(),
        local=view.local,
    )
    try:
        there = outside(problem, known.inputs) <= OUTSIDE
    except NotApplicable:
        there = torch.zeros(len(known.inputs), dtype=torch.bool, device=known.inputs.device)
    return chosen(known, there & ~among(known.inputs, found.inputs))


def joined(found: Reconstruction, more: Known) -> Reconstruction:
    """Return a reconstruction with recalled samples added, certified.

    Parameters
    ----------
    found : Reconstruction
    more : Known
        Of the same input shape.

    Returns
    -------
    Reconstruction
        `found` itself if there is nothing to add; without labels unless both have them.
    """
    if not len(more.inputs):
        return found
    labels = None
    if found.labels is not None and more.labels is not None:
        labels = torch.cat([found.labels, more.labels])
    elif not len(found) and more.labels is not None:
        labels = more.labels
    fresh = torch.ones(len(more.inputs), dtype=torch.bool, device=found.certified.device)
    return replace(
        found,
        inputs=torch.cat([found.inputs, more.inputs.to(found.inputs)]),
        labels=labels,
        certified=torch.cat([found.certified, fresh]),
        residual=torch.cat([found.residual, torch.zeros(len(fresh)).to(found.residual)]),
        features=None,
    )


def united(one: Known, other: Known) -> Known:
    """Return all samples of both, once each.

    Parameters
    ----------
    one, other : Known
        Of the same input shape.

    Returns
    -------
    Known
        Those of `one` first; without labels unless both have them.
    """
    fresh = chosen(other, ~among(other.inputs, one.inputs))
    labels = None
    if one.labels is not None and fresh.labels is not None:
        labels = torch.cat([one.labels, fresh.labels])
    return Known(torch.cat([one.inputs, fresh.inputs.to(one.inputs)]), labels)


def chosen(known: Known, which: Tensor) -> Known:
    """Return the samples chosen by a bool Tensor of shape (n,)."""
    return Known(known.inputs[which], None if known.labels is None else known.labels[which])


def among(samples: Tensor, others: Tensor) -> Tensor:
    """Tell which samples are, up to `SAME`, among others.

    Parameters
    ----------
    samples, others : Tensors of shapes (n, *input_shape) and (m, *input_shape)

    Returns
    -------
    bool Tensor of shape (n,)
    """
    if not len(samples) or not len(others):
        return torch.zeros(len(samples), dtype=torch.bool, device=samples.device)
    x, y = samples.flatten(1).double(), others.flatten(1).double().to(samples.device)
    nearest = torch.cdist(x, y).min(1).values
    return nearest <= SAME * x.norm(dim=1)
