"""A scenario in one plain sentence, and the names people use for what the configuration names.

Nothing here decides anything: a name without an entry below is shown as it is configured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fl_sim.report.formats import listing, plural

TITLES = {
    "fashion_mnist_mini": "Fashion-MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "cifar10_sample": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "image_folder": "user-supplied",
    "lenet": "LeNet",
    "convnet": "ConvNet",
    "vgg11": "VGG-11",
    "resnet18": "ResNet-18",
    "vit": "vision transformer",
    "relu": "ReLU",
    "leaky_relu": "leaky ReLU",
    "gelu": "GELU",
    "silu": "SiLU",
    "elu": "ELU",
    "selu": "SELU",
    "tensor_published": "published tensor",
    "see_through": "see-through-gradients",
    "gaussian_noise": "Gaussian noise",
    "local_dp": "local DP",
    "central_dp": "central DP",
    "dp_sgd": "DP-SGD",
    "prune": "pruning",
    "quantize": "quantisation",
    "clip": "clipping",
    "sign": "sign compression",
    "soteria": "Soteria",
    "std": "standard deviation",
}

SERVERS = {
    "honest_but_curious": "the honest-but-curious server",
    "secure_aggregation": "the server, seeing only the sum over its clients,",
    "active": "the active server, which chose the weights it sent,",
    "plain": "the server",
}


def title(name: Any) -> str:
    """Return the name a reader knows, e.g. "GELU" for "gelu"; words for any other key."""
    return TITLES.get(str(name), str(name).replace("_", " "))


ASSUMED = {
    "center": "mean brightness",
    "spread": "spread of the brightness",
    "shift": "mean over deviation of the pixels",
}
"""Settings of an active server's query that say something about the data."""


def look_up(scenario: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """Return the value at a dotted key, or the default where there is none."""
    value: Any = scenario
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return default if value is None else value


def describe(scenario: Mapping[str, Any], done: int | None = None) -> str:
    """Return the scenario as one sentence.

    Parameters
    ----------
    scenario : mapping
        `Results.scenario`; keys that are missing are left out of the sentence.
    done : int, optional
        How many rounds there were, where the run ended early.
    """
    opening = _rounds(look_up(scenario, "rounds", 1), done)
    told = f"{opening}{_clients(scenario)}{_training(scenario)} sent {_update(scenario)}"
    sentence = f"{told}; {_server(scenario)}."
    return sentence[0].upper() + sentence[1:]


def _rounds(planned: int, done: int | None) -> str:
    if planned == 1:
        return ""
    if done is None or done >= planned:
        return f"In each of {planned} rounds, "
    return f"In the first {f'{done} ' if done > 1 else ''}of {planned} rounds, "


def _clients(scenario: Mapping[str, Any]) -> str:
    count = look_up(scenario, "clients.count")
    sampled = look_up(scenario, "clients.per_round", count)
    if count is None:
        return "the clients"
    if count == 1:
        return "one client"
    if sampled == count:
        return "both clients" if count == 2 else f"all {count:,} clients"
    return f"{'one' if sampled == 1 else format(sampled, ',')} of {count:,} clients"


def _training(scenario: Mapping[str, Any]) -> str:
    images = [title(look_up(scenario, "data.name"))] if look_up(scenario, "data.name") else []
    size = look_up(scenario, "clients.batch_size")
    noun = plural(size, "image").split() if size else ["", "images"]
    data = " ".join([noun[0], *images, noun[1]]).strip()
    each = "" if look_up(scenario, "clients.count") == 1 else "each "
    return f", {each}training {_model(scenario)} on {data}{_partition(scenario)},"


def _model(scenario: Mapping[str, Any]) -> str:
    name = look_up(scenario, "model.name", "model")
    depth = look_up(scenario, "model.depth")
    width = look_up(scenario, "model.width")
    kind = "network" if name in {"mlp", "model"} else title(name)
    words = [f"{depth}-layer"] if depth and kind == "network" else []
    if activation := look_up(scenario, "model.activation"):
        words.append(title(activation))
    words.append(kind)
    phrase = " ".join(words) + (f" of width {width}" if width else "")
    return ("an " if phrase[0] in "aeiouAEIO8" else "a ") + phrase


def _partition(scenario: Mapping[str, Any]) -> str:
    kind = look_up(scenario, "data.partition", "iid")
    if kind == "iid":
        return ""
    if kind == "dirichlet":
        return f" from a Dirichlet split (alpha {look_up(scenario, 'data.alpha', '?')})"
    classes = look_up(scenario, "data.classes_per_client", 1)
    return f" from {plural(classes, 'class', 'classes')}"


def _update(scenario: Mapping[str, Any]) -> str:
    what = "one gradient" if look_up(scenario, "clients.reply") == "gradient" else "one update"
    steps = look_up(scenario, "clients.local_steps", 1)
    after = f" after {steps} local steps" if steps != 1 else ""
    defences = [title(name) for name in look_up(scenario, "defense", {})]
    return what + after + (f", defended by {listing(defences)}" if defences else "")


def _server(scenario: Mapping[str, Any]) -> str:
    name = look_up(scenario, "strategy.name", "plain")
    server = SERVERS.get(name, f"the server (strategy {title(name)})")
    attack = look_up(scenario, "attack.name", "none")
    if attack == "none":
        return f"{server.removesuffix(',')} ran no attack"
    knows = [title(name) for name in look_up(scenario, "attack.knows", [])]
    told = f"told the {listing(knows)}" if knows else "knowing nothing but the protocol"
    query = look_up(scenario, "strategy.adversary.query", {})
    if assumed := [f"{words} {query[key]:g}" for key, words in ASSUMED.items() if key in query]:
        told += f", assuming of the images: {listing(assumed)}"
    return f"{server} ran the {title(attack)} attack, {told}"
