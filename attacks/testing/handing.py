"""Ways to hand over a model and its gradient, as people and libraries do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from attacks.testing.instance import Case, Instance, client, gradient_of, plain

Handed = Callable[[dict[str, Tensor]], Any]


def handed(change: Handed, **told: Any) -> Instance:
    """An instance whose gradient comes in another form."""
    instance = client(plain())
    instance.gradient = change(instance.gradient)
    for name, value in told.items():
        setattr(instance, name, value)
    return instance


def _granted(grants: Callable[[Instance], dict[str, Any]]) -> Instance:
    instance = client(plain())
    instance.knows = grants(instance)
    return instance


def _prefixed(prefix: str) -> Handed:
    return lambda gradient: {f"{prefix}.{name}": value for name, value in gradient.items()}


def _wrapped(wrap: Callable[[nn.Module], nn.Module]) -> Instance:
    instance = client(plain())
    instance.model = wrap(instance.model)
    return instance


def _inner(model: nn.Module) -> nn.Module:
    assert isinstance(model, nn.Sequential)
    model[2] = nn.DataParallel(model[2])
    return model


def _compiled() -> Instance:
    instance = client(plain())
    compiled = torch.compile(instance.model)
    assert isinstance(compiled, nn.Module)
    instance.model = compiled
    instance.gradient = _prefixed("_orig_mod")(instance.gradient)
    return instance


def _scripted(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is deprecated, and still met
        scripted: nn.Module = torch.jit.script(model)
    return scripted


def _traced(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and still met
        traced: nn.Module = torch.jit.trace(model, torch.zeros(2, 1, 8, 8))
    return traced


def _unused() -> Instance:
    model = plain()
    model.register_parameter("spare", nn.Parameter(torch.zeros(3)))
    instance = client(model)
    instance.gradient["spare"] = None  # type: ignore[assignment]
    return instance


def _frozen(which: int, sent: bool) -> Instance:
    model = plain()
    instance = client(model)
    assert isinstance(model[which], nn.Linear)
    model[which].requires_grad_(False)
    if not sent:
        del instance.gradient[f"{which}.weight"], instance.gradient[f"{which}.bias"]
        instance.readable = False
    return instance


def _computed(model: nn.Module, **facts: Any) -> Instance:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old weight norm is deprecated, and still met
        return client(model, **facts)


def _changed(change: Callable[[nn.Linear], object], which: int) -> Instance:
    model = plain()
    layer = model[which]
    assert isinstance(layer, nn.Linear)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change(layer)
    return _computed(model, plain=False, readable=False)


def _after_training() -> Instance:
    model = plain()
    instance = client(model)
    loss = nn.functional.cross_entropy(model(instance.inputs), instance.labels)
    loss.backward()  # type: ignore[no-untyped-call]
    model[1].register_forward_hook(lambda *call: setattr(model, "kept", call[2]))
    model(instance.inputs)
    return instance


def _sent_back() -> Instance:
    model = plain()
    instance = client(model)
    sent = {name: p.detach() for name, p in model.named_parameters()}
    returned = {name: sent[name] - 0.1 * instance.gradient[name] for name in sent}
    instance.gradient = {k: (sent[k].double() - returned[k].double()) / 0.1 for k in sent}
    return instance


def _other_batch_size() -> Instance:
    model = plain(nn.ReLU())
    instance = client(model)
    both = gradient_of(model, instance.inputs.repeat(2, 1, 1, 1), instance.labels.repeat(2))
    instance.gradient = both
    return instance


def handing() -> list[Case]:
    """All of them."""
    wraps: dict[str, Callable[[nn.Module], nn.Module]] = {
        "data parallel": nn.DataParallel,
        "data parallel twice": lambda m: nn.DataParallel(nn.DataParallel(m)),
        "a part in data parallel": _inner,
        "scripted": _scripted,
        "traced": _traced,
    }
    forms: dict[str, Handed] = {
        "a list": lambda g: list(g.values()),
        "a tuple": lambda g: tuple(g.values()),
        "a generator": lambda g: iter(list(g.values())),
        "pairs of name and value": lambda g: list(g.items()),
        "NumPy arrays": lambda g: {k: v.numpy() for k, v in g.items()},
        "a list of NumPy arrays": lambda g: [v.numpy() for v in g.values()],
        "another order of names": lambda g: dict(reversed(g.items())),
        "a prefix of data parallel": _prefixed("module"),
        "a prefix of two wrappers": _prefixed("module._orig_mod"),
        "sparse tensors": lambda g: {k: v.to_sparse() for k, v in g.items()},
        "doubled precision": lambda g: {k: v.double() for k, v in g.items()},
        "a clipped gradient": lambda g: {k: 0.01 * v for k, v in g.items()},
    }
    grants: dict[str, Callable[[Instance], dict[str, Any]]] = {
        "labels as a list": lambda i: {"labels": i.labels.tolist()},
        "labels in int32": lambda i: {"labels": i.labels.int()},
        "the batch size": lambda i: {"batch_size": len(i.labels)},
        "a data range": lambda i: {"data_range": (-10.0, 10.0)},
    }
    pruned = partial(prune.l1_unstructured, name="weight", amount=0.2)
    norm = torch.nn.utils.weight_norm
    return [
        *(Case(f"gradient as {name}", partial(handed, f)) for name, f in forms.items()),
        *(Case(f"grants {name}", partial(_granted, f)) for name, f in grants.items()),
        *(Case(f"model {name}", partial(_wrapped, f)) for name, f in wraps.items()),
        Case("model compiled", _compiled),
        Case("no gradient of an unused parameter", _unused),
        Case("first layer frozen, gradient sent", partial(_frozen, 1, True)),
        Case("second layer frozen, gradient sent", partial(_frozen, 3, True)),
        Case("second layer frozen, no gradient", partial(_frozen, 3, False)),
        Case("first layer pruned by a mask", partial(_changed, pruned, 1)),
        Case("first layer, old weight norm", partial(_changed, norm, 1)),
        Case("first layer, weight norm", partial(_changed, parametrizations.weight_norm, 1)),
        Case("first layer, spectral norm", partial(_changed, parametrizations.spectral_norm, 1)),
        Case("second layer, weight norm", partial(_changed, parametrizations.weight_norm, 3)),
        Case("gradients and activations kept", _after_training),
        Case("weights that were sent back", _sent_back),
        Case("every sample twice", _other_batch_size),
    ]
