"""`check_attack`: holds an attack to its word on some eighty ways to write, train and hand over.

What is asked of any attack: every input it certifies is in the batch, every feature it certifies is
what the layer saw; what it cannot read it refuses with `NotApplicable` and one sentence, and the
sentence is true; what it returns is finite and fits the model; the model, the gradient and the
global random state are left as they were found.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attacks.base import Attack, NotApplicable, Reconstruction
from attacks.testing.handing import handing
from attacks.testing.instance import Case, Instance
from attacks.testing.sentences import untrue
from attacks.testing.training import training
from attacks.testing.writing import writing

WRONG = 1e-2
"""Relative error above which a certified input is no sample of the batch."""


class FalseWord(AssertionError):
    """An attack said or did what it must not; the message names case and attack."""


@dataclass(frozen=True)
class Outcome:
    """What an attack made of one case.

    Attributes
    ----------
    case : str
    status : str
        "read" (something was returned), "nothing" or "refused".
    message : str
        The refusal, or the reason for finding little.
    found, certified, features_certified : int
    worst : float
        Largest relative error of a certified input; 0 without any.
    complaints : list of str
        What was wrong, in words; empty if nothing was.
    readable : bool
        Whether an exact attack has to certify the whole batch.
    """

    case: str
    status: str
    message: str = ""
    found: int = 0
    certified: int = 0
    features_certified: int = 0
    worst: float = 0.0
    complaints: list[str] = field(default_factory=list)
    readable: bool = False


def cases() -> list[Case]:
    """All cases of the battery, by name."""
    return [*writing(), *training(), *handing()]


def check_attack(
    attack: Attack, among: Iterable[Case] | None = None, seeds: Sequence[int] = (0,)
) -> list[Outcome]:
    """Run an attack on the battery and raise if it broke a promise.

    Parameters
    ----------
    attack : Attack
        Any.
    among : iterable of Case, optional
        Which cases; by default all of `cases`.
    seeds : sequence of int, default (0,)
        Of the random numbers that each case is built with.

    Returns
    -------
    list of Outcome
        One per case and seed.

    Raises
    ------
    FalseWord
        With one line per complaint.
    """
    chosen = cases() if among is None else list(among)
    outcomes = [check_case(attack, case, seed) for seed in seeds for case in chosen]
    if told := [f"{o.case}: {c}" for o in outcomes for c in o.complaints]:
        raise FalseWord(f"{type(attack).__name__}\n  " + "\n  ".join(told))
    return outcomes


def check_case(attack: Attack, case: Case, seed: int = 0) -> Outcome:
    """What an attack makes of one case.

    Parameters
    ----------
    attack : Attack
        Any.
    case : Case
        Of `cases`, or one's own.
    seed : int, default 0

    Returns
    -------
    Outcome
        With complaints, which are not raised.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        instance = case.build()
        before = _Traces(instance)
        try:
            found = attack.run(
                instance.model,
                instance.gradient,
                input_shape=instance.input_shape,
                loss=instance.loss,
                knows=dict(instance.knows),
            )
        except NotApplicable as refusal:
            message = str(refusal)
            outcome = Outcome(
                case.name, "refused", message, complaints=_sentence(message, instance)
            )
        except Exception as error:  # whatever else it raises is a complaint
            complaint = f"raised {type(error).__name__}: {error}"
            outcome = Outcome(case.name, "refused", complaint, complaints=[complaint])
        else:
            outcome = _judged(case.name, found, instance)
        outcome.complaints.extend(before.changed(instance))
    return outcome


def _judged(name: str, found: Any, instance: Instance) -> Outcome:
    if not isinstance(found, Reconstruction):
        return Outcome(name, "read", complaints=[f"returned a {type(found).__name__}"])
    complaints: list[str] = []
    if found.inputs.shape[1:] != instance.inputs.shape[1:]:
        complaints.append(f"returned inputs of shape {tuple(found.inputs.shape[1:])}")
        return Outcome(name, "read", found=len(found), complaints=complaints)
    if not bool(found.inputs.isfinite().all()):
        complaints.append("returned inputs that are not finite")
    message = str(found.info.get("reason", ""))
    if pattern := untrue(message, instance):
        complaints.append(f"said what is not true ({pattern}): {message!r}")
    errors = nearest(found.inputs[found.certified], instance.inputs)
    if wrong := int((errors > WRONG).sum()):
        worst = float(errors.max())
        complaints.append(f"certified {wrong} inputs that are not in the batch ({worst:.1e})")
    if len(found) and instance.front in ("lively", "random", "company") and len(errors):
        complaints.append(f"certified inputs behind a front that is {instance.front}")
    sure = found.features_certified
    if sure is not None and found.features is not None and instance.features is not None:
        gaps = nearest(found.features[sure], instance.features)
        if wrong := int((gaps > WRONG).sum()):
            complaints.append(f"certified {wrong} features that the layer did not see")
    return Outcome(
        name,
        "read" if len(found) else "nothing",
        message,
        len(found),
        int(found.certified.sum()),
        0 if sure is None else int(sure.sum()),
        float(errors.max()) if len(errors) else 0.0,
        complaints,
        instance.readable,
    )


def nearest(found: Tensor, truth: Tensor) -> Tensor:
    """Relative distance of each found sample to the nearest true one.

    Parameters
    ----------
    found : Tensor of shape (n, ...)
    truth : Tensor of shape (B, ...)

    Returns
    -------
    Tensor of shape (n,)
    """
    if not len(found):
        return torch.zeros(0, dtype=torch.float64)
    a, b = found.detach().flatten(1).double().cpu(), truth.detach().flatten(1).double().cpu()
    size = b.norm(dim=1)  # a sample of zeros is as near as others would be
    gap: Tensor = (torch.cdist(a, b) / size.clamp_min(1e-3 * float(size.mean()))).min(1).values
    return gap


def _sentence(message: str, instance: Instance) -> list[str]:
    complaints = []
    if len(message) < 20 or message[0].islower() or message.rstrip()[-1:] not in ".!)":
        complaints.append(f"said no sentence: {message!r}")
    if pattern := untrue(message, instance):
        complaints.append(f"said what is not true ({pattern}): {message!r}")
    return complaints


class _Traces:
    """A model, a gradient and the random state as they were."""

    def __init__(self, instance: Instance) -> None:
        self.state = {name: value.clone() for name, value in _tensors(instance.model)}
        self.slopes = [None if p.grad is None else p.grad.clone() for p in _leaves(instance.model)]
        self.wanted = [p.requires_grad for p in _leaves(instance.model)]
        self.modes = [m.training for m in instance.model.modules()]
        self.hooks = _hooks(instance.model)
        self.random = torch.get_rng_state()
        self.gradient = copy.deepcopy(_arrays(instance.gradient))

    def changed(self, instance: Instance) -> list[str]:
        """What is not as it was, in words."""
        now = dict(_tensors(instance.model))
        same = now.keys() == self.state.keys() and all(
            torch.equal(now[k], self.state[k]) for k in now
        )
        slopes = [p.grad for p in _leaves(instance.model)]
        kept = all(
            a is b if a is None or b is None else torch.equal(a, b)
            for a, b in zip(slopes, self.slopes, strict=True)
        )
        told = {
            "the model's parameters or buffers": same,
            "the parameters' gradients": kept,
            "requires_grad": self.wanted == [p.requires_grad for p in _leaves(instance.model)],
            "the modules' modes": self.modes == [m.training for m in instance.model.modules()],
            "the modules' hooks": self.hooks == _hooks(instance.model),
            "the global random state": torch.equal(self.random, torch.get_rng_state()),
            "the gradient": _alike(self.gradient, _arrays(instance.gradient)),
        }
        return [f"changed {name}" for name, well in told.items() if not well]


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _leaves(model: nn.Module) -> list[nn.Parameter]:
    return list(model.parameters())


def _hooks(model: nn.Module) -> list[tuple[int, int]]:
    return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]


def _arrays(gradient: Any) -> list[Any]:
    """The arrays of a gradient; none of one that can be read once only."""
    if isinstance(gradient, dict):
        return list(gradient.values())
    return list(gradient) if isinstance(gradient, list | tuple) else []


def _alike(a: list[Any], b: list[Any]) -> bool:
    def one(x: Any) -> Any:
        if isinstance(x, tuple):
            x = x[1]
        return x.to_dense() if isinstance(x, Tensor) else x

    pairs = [(one(x), one(y)) for x, y in zip(a, b, strict=True)]
    return all(
        x is y if x is None else bool((torch.as_tensor(x) == torch.as_tensor(y)).all())
        for x, y in pairs
    )
