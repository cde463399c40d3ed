"""`PeelingAttack`: read a sample off a unit that saw it alone, take it away, look again.

In a ReLU layer a unit that only one sample of the batch activates has that sample in its
gradient's row, which the bias' gradient scales. Once a sample is known, so is which units it
activates and how much it contributed to each; taken away, it may leave other units with a single
sample (the cascade of Shariati and Alambardar Meybodi, 2026). A row is believed if the sample it
gives satisfies the equation that only true samples satisfy, so one such unit is enough.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.base import Attack, Problem, Reconstruction
from attacks.relu import Gated, read_gated
from attacks.settings import count
from attacks.tensor.certificate import column_threshold
from attacks.tensor.equation import SampleEquation

SAME = 1e-6
"""Columns at a cosine within this of one belong to one sample."""

CHUNK = 2**25
"""Numbers held at a time while candidates are judged."""


class PeelingAttack(Attack):
    """Cascade of isolated units of the first, ReLU-like layer.

    Needs no labels and no batch size. Works best on inputs with positive entries: standardised ones
    leave few units to one sample alone.

    Parameters
    ----------
    rounds : int, default 1000
        Most rounds of the cascade.
    """

    def __init__(self, rounds: int = 1000) -> None:
        self.rounds = count("rounds", rounds)

    def reconstruct(self, problem: Problem) -> Reconstruction:
        """Reconstruct the batch; see `Attack.run`."""
        read = read_gated(problem)
        if read.reason:
            return read.empty(read.reason)
        cascade = Cascade(read)
        interrupted = False
        try:
            while len(cascade.per_round) < self.rounds and cascade.peel():
                pass
        except KeyboardInterrupt:
            interrupted = True
        info = {"new_per_round": cascade.per_round, "interrupted": interrupted}
        if not len(cascade.points):
            return read.empty("no unit saw one sample alone", **info)
        return read.finished(cascade.columns, cascade.points, **info)


class Cascade:
    """The samples taken away so far and what is left of the gradient.

    Parameters
    ----------
    read : Gated
        The gradient.

    Attributes
    ----------
    points : Tensor of shape (n, rank)
        Samples in the coordinates of the row space.
    columns : Tensor of shape (n, m)
        Their shares D_i of the units' gradients, to scale.
    per_round : list of int
        How many samples each round took away.
    """

    def __init__(self, read: Gated) -> None:
        space, W = read.space, read.layer.weight @ read.space.V
        assert space.last is not None
        self._space, self._last, self._slope = space, space.last, read.pair.activation.slope
        self._equation = SampleEquation(space.Q, space.U, W, space.last)
        self._whole = space.Q * space.S  # rows of the gradient in the coordinates of V
        self.points = W.new_zeros(0, space.rank)
        self.columns = W.new_zeros(0, len(W))
        self.per_round: list[int] = []

    def peel(self) -> int:
        """Take away every sample that some unit now sees alone; how many."""
        rest = self._whole - self.columns.T @ self.points
        scale = rest @ self._last  # what is left of the bias' gradient
        level = (self.columns.abs().T @ self.points.norm(dim=1)) * 1e-6 + self._space.noise
        units = torch.nonzero(rest.norm(dim=1) > 10 * level)[:, 0]
        units = units[scale[units].abs() > 0]
        candidates = rest[units] / scale[units, None]
        phi, columns = self._judge(candidates)
        fine = torch.nonzero(phi <= column_threshold(self._space, columns))[:, 0]
        fine = fine[columns[fine, units[fine]] != 0]
        fit = scale[units[fine]] / columns[fine, units[fine]]
        shares = columns[fine] * fit[:, None]
        new = self._take(candidates[fine], shares)
        self.per_round.append(new)
        return new

    def _take(self, candidates: Tensor, shares: Tensor) -> int:
        """Add one candidate per column that is not known yet; how many.

        The column depends on the candidate only through the units it activates, so neighbours of a
        sample pass the test as well. Truly isolated units agree on sample and share: of the
        candidates with one column the one that most others repeat is taken.
        """
        unit = shares / shares.norm(dim=1, keepdim=True)
        free = torch.ones(len(unit), dtype=torch.bool, device=unit.device)
        if len(self.columns):
            known = self.columns / self.columns.norm(dim=1, keepdim=True)
            free = (unit @ known.T).abs().max(1).values < 1 - SAME
        new = 0
        while bool(free.any()) and len(self.points) < self._space.rank:
            first = int(free.double().argmax())
            group = torch.nonzero((unit @ unit[first]).abs() >= 1 - SAME)[:, 0]
            both = torch.cat([candidates[group], shares[group]], 1)
            both = both / both.norm(dim=1, keepdim=True)
            repeated = (torch.cdist(both, both) < 1e-4).sum(1)
            chosen = group[int(repeated.argmax())]
            self.points = torch.cat([self.points, candidates[chosen][None]])
            self.columns = torch.cat([self.columns, shares[chosen][None]])
            free[group] = False
            new += 1
        return new

    def _judge(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Residual of the sample equation and column of every candidate."""
        m, K = self._space.U.shape
        chunk = max(1, CHUNK // (m * K))
        phi, columns = [candidates.new_zeros(0)], [candidates.new_zeros(0, m)]
        for part in candidates.split(chunk):
            state = self._equation.evaluate(part, self._slope)
            inside = (state.column @ self._space.Q) @ self._space.Q.T
            phi.append(state.phi)
            columns.append(torch.where(state.column == 0, state.column, inside))
        return torch.cat(phi), torch.cat(columns)
