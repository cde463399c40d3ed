"""The equation that only a true sample satisfies, and its linearisation.

Write x~ = (x, 1). Backpropagation through Linear(W, b) - s - Linear(A) gives the first layer's
gradient G~ = [dL/dW | dL/db] = sum_i D_i x~_i' with

    D_i = s'(W~ x~_i) o (U delta_i),

where column k of U belongs to a basis of the space the back-propagated errors delta live in. Every
D_i lies in the column space of G~, spanned by Q. Hence

    phi(x) = min over delta of |(I - QQ') (s'(W~ x) o U delta)| / |s'(W~ x) o U delta|

vanishes at the samples and, with more rows than unknowns, generically nowhere else. `evaluate`
eliminates delta exactly, a generalised eigenvalue problem per candidate; what remains is minimised
by the steps of `gauss_newton` and, near a sample, by the `normal_equations` of a single candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from attacks.tensor.activation import Slope
from attacks.tensor.linear_algebra import complement, generalised_eigh, gram


@dataclass(frozen=True)
class Trust:
    """Rows (hidden units) that count, per candidate, and the metric that goes with them.

    Attributes
    ----------
    rows : Tensor of shape (N, m)
        Ones and zeros.
    factor : Tensor of shape (N, B, B)
        Cholesky factor of Q_F'Q_F, where Q_F are the trusted rows of Q.
    """

    rows: Tensor
    factor: Tensor

    def select(self, which: Tensor) -> Trust:
        """The trust of some of the candidates."""
        return Trust(self.rows[which], self.factor[which])

    def to(self, dtype: torch.dtype) -> Trust:
        """The same in another precision."""
        return Trust(self.rows.to(dtype), self.factor.to(dtype))


@dataclass(frozen=True)
class State:
    """Everything known at N candidates; the first axis of every field is the candidate.

    Attributes
    ----------
    phi : Tensor of shape (N,)
        The equation's residual.
    delta : Tensor of shape (N, K)
        The best error vector, scaled so that `counted` has norm one.
    column : Tensor of shape (N, m)
        s'(z) o (U delta).
    counted : Tensor of shape (N, m)
        The part of `column` whose norm is one.
    residual : Tensor of shape (N, m)
        (I - QQ') column.
    tangent : Tensor of shape (N, m)
        s''(z) o (U delta): how `column` moves with z.
    freedom : Tensor of shape (N, K - 1, m)
        Orthonormal directions in which a change of delta moves the residual.
    runner_up : Tensor of shape (N,)
        phi of the second best error vector; if it vanishes too, delta is not unique.
    rival : Tensor of shape (N, m)
        Column of the second best error vector; zero if there is none.
    trust : Trust, optional
        The rows the equation was restricted to; None for all.
    """

    phi: Tensor
    delta: Tensor
    column: Tensor
    counted: Tensor
    residual: Tensor
    tangent: Tensor
    freedom: Tensor
    runner_up: Tensor
    rival: Tensor
    trust: Trust | None = None

    def select(self, rows: Tensor) -> State:
        """The state of some of the candidates."""
        parts: dict[str, Any] = {name: getattr(self, name)[rows] for name in _TENSORS}
        return replace(self, **parts, trust=self.trust and self.trust.select(rows))

    @staticmethod
    def joined(parts: list[State]) -> State:
        """One state of all candidates of several, none of which is restricted to some rows."""
        whole: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS
        }
        return State(**whole)

    def replaced(self, other: State, where: Tensor) -> State:
        """Copy with the candidates marked in a (N,) mask taken from another (same trust).

        Parameters
        ----------
        other : State
            Of as many candidates.
        where : bool Tensor of shape (N,)
            Candidates to take from it.

        Returns
        -------
        State
            With the trust of this one.
        """

        def merge(old: Tensor, new: Tensor) -> Tensor:
            return torch.where(where.view(-1, *[1] * (old.dim() - 1)), new, old)

        parts: dict[str, Any] = {
            name: merge(getattr(self, name), getattr(other, name)) for name in _TENSORS
        }
        return replace(self, **parts)


_TENSORS = [f.name for f in fields(State) if f.name != "trust"]


def coordinates(Q: Tensor, T: Tensor, trust: Trust | None) -> Tensor:
    """Coefficients (N, ..., B) that bring Q closest to T (N, ..., m) in the trusted rows.

    Parameters
    ----------
    Q : Tensor of shape (m, B)
        Orthonormal columns.
    T : Tensor of shape (N, ..., m)
        What to come close to, per candidate.
    trust : Trust, optional
        The rows that count; None for all.

    Returns
    -------
    Tensor of shape (N, ..., B)
    """
    if trust is None:
        return T @ Q
    weighted = trust.rows.view(len(T), *[1] * (T.dim() - 2), -1) * T
    rhs = (weighted @ Q).reshape(len(T), -1, Q.shape[1]).transpose(1, 2)
    solved = torch.cholesky_solve(rhs, trust.factor).transpose(1, 2)
    return solved.reshape(*T.shape[:-1], -1)


class SampleEquation:
    """phi over an affine search space, for one gradient.

    Parameters
    ----------
    Q : Tensor of shape (m, B)
        Orthonormal basis of the gradient's column space.
    U : Tensor of shape (m, K)
        Orthonormal basis of the second layer's transposed weight, restricted to the delta space.
    W : Tensor of shape (m, k)
        First layer's weights in the coordinates of the search space.
    last : Tensor of shape (k,), optional
        Candidates satisfy ``last @ x == 1`` (the bias' coordinate). None without biases.
    dtype : torch.dtype, default float64
        Precision of all the work.
    centred : bool, default False
        Whether phi is taken relative to |(I - UU') s'(W~ x) o U delta|. The samples stay zeros; but
        inputs so small that no unit leaves the middle of the activation, and all slopes are equal,
        are no longer minima that attract a search. Without `Trust` only.
    """

    def __init__(
        self,
        Q: Tensor,
        U: Tensor,
        W: Tensor,
        last: Tensor | None,
        dtype: torch.dtype = torch.float64,
        *,
        centred: bool = False,
    ) -> None:
        self.dtype = dtype
        self.centred = centred
        self.Q = Q.to(dtype)
        self.Ut = U.T.to(dtype).contiguous()
        self.W = W.to(dtype)
        if last is None:
            self.directions = torch.eye(W.shape[1], dtype=dtype, device=W.device)
        else:
            self.directions = complement(last).to(dtype)
        self.Wn = self.W @ self.directions

    def trusting(self, rows: Tensor) -> Trust:
        """Restrict the equation to some rows; Q is orthonormal, so only the others are taken off.

        Parameters
        ----------
        rows : bool Tensor of shape (N, m)
            Rows that count.

        Returns
        -------
        Trust
            For `evaluate` and `fit`.
        """
        B = self.Q.shape[1]
        metric = torch.eye(B, dtype=self.dtype, device=self.Q.device).repeat(len(rows), 1, 1)
        for k, row in enumerate(rows):
            doubted = self.Q[~row]
            metric[k] -= doubted.T @ doubted
        floor = 10 * torch.finfo(self.dtype).eps
        factor = torch.linalg.cholesky_ex(metric + floor * torch.eye(B).to(metric))[0]
        return Trust(rows.to(self.dtype), factor)

    def evaluate(self, X: Tensor, slope: Slope, trust: Trust | None = None) -> State:
        """Eliminate delta at candidates X of shape (N, k).

        Parameters
        ----------
        X : Tensor of shape (N, k)
            Candidates, in the search space.
        slope : callable
            The activation's derivatives, possibly smoothed.
        trust : Trust, optional
            Rows the equation is restricted to; by default all.

        Returns
        -------
        State
            Of the N candidates.
        """
        first, second = slope(X.to(self.dtype) @ self.W.T)
        return self.fit(first, second, trust)

    def fit(self, first: Tensor, second: Tensor, trust: Trust | None = None) -> State:
        """Eliminate delta for given slopes s' and s'' of shape (N, m).

        Parameters
        ----------
        first, second : Tensor of shape (N, m)
            s' and s'' at the pre-activations of N candidates.
        trust : Trust, optional
            Rows the equation is restricted to; by default all.

        Returns
        -------
        State
            Of the N candidates.
        """
        if trust is not None:
            first, second = first * trust.rows, second * trust.rows
        features = first[:, None, :] * self.Ut  # (N, K, m)
        off = features - coordinates(self.Q, features, trust) @ self.Q.T
        if trust is not None:
            off = off * trust.rows[:, None, :]
        counted = self._off_errors(features) if self.centred else features
        values, vectors = generalised_eigh(gram(off), gram(counted))
        vectors = vectors.to(self.dtype)
        delta = vectors[:, :, 0]
        column = torch.einsum("nk,nkm->nm", delta, features)
        part = self._off_errors(column) if self.centred else column
        size = part.norm(dim=1).clamp_min(torch.finfo(self.dtype).tiny)[:, None]
        delta, column, part = delta / size, column / size, part / size
        residual = torch.einsum("nk,nkm->nm", delta, off)
        freedom = vectors[:, :, 1:].transpose(1, 2) @ off
        others = values[:, 1:].sqrt().to(self.dtype)
        freedom = freedom / others.clamp_min(1e-6)[:, :, None]
        runner_up = others[:, 0] if others.shape[1] else torch.ones_like(others.sum(1))
        phi = torch.nan_to_num(residual.norm(dim=1), nan=1.0)
        rival = torch.zeros_like(column)
        if others.shape[1]:
            rival = torch.einsum("nk,nkm->nm", vectors[:, :, 1], features)
        tangent = second * (delta @ self.Ut)
        return State(phi, delta, column, part, residual, tangent, freedom, runner_up, rival, trust)

    def _off_errors(self, T: Tensor) -> Tensor:
        """T (..., m) without what equal slopes at all units can produce."""
        return T - (T @ self.Ut.T) @ self.Ut

    def slopes(self, state: State) -> Tensor:
        """Half the gradient (N, n) of phi^2 along `directions`, for N candidates."""
        a, squared = state.tangent, state.phi.square()[:, None]
        return (a * state.residual) @ self.Wn - squared * ((a * state.counted) @ self.Wn)

    def normal_equations(self, state: State, k: int, turned: Tensor) -> tuple[Tensor, Tensor]:
        """J'J of candidate k along `directions`, as in `gauss_newton`.

        J holds the part of a column's motion that leaves the column space of Q. Where noise has
        turned Q, what moves along Q seems to leave it too: that much of J'J means nothing.

        Parameters
        ----------
        state : State
            Of the candidates.
        k : int
            Which of them.
        turned : Tensor of shape (B,)
            Angles by which noise turns the columns of Q.

        Returns
        -------
        Tensor of shape (n, n), Tensor of shape (n, n)
            J'J, and what `turned` is expected to add to it.
        """
        T = state.tangent[k][:, None] * self.Wn
        v, pull = T.T @ state.counted[k], T.T @ state.residual[k]
        inside, shared = self.Q.T @ T, state.freedom[k] @ T
        H = T.T @ T - inside.T @ inside - shared.T @ shared
        H = H - torch.outer(v, pull) - torch.outer(pull, v)
        seeming = turned[:, None] * inside
        return H + state.phi[k] ** 2 * torch.outer(v, v), seeming.T @ seeming
