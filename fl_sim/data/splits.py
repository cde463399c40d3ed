"""Disjoint splits of a training set among clients, each a function of (pools, skew, count, rng).

`count` is the number of clients, at least 1 and at most the images of all `pools`; what comes back
is one array of distinct indices for each client, in random order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fl_sim.data.pools import Indices, Pools, Skew, dirichlet_counts

Split = Callable[[Pools, Skew, int, np.random.Generator], list[Indices]]


def iid(pools: Pools, skew: Skew, count: int, rng: np.random.Generator) -> list[Indices]:
    """Deal all images out at random, sizes differing by at most one."""
    return np.array_split(rng.permutation(np.concatenate(pools.classes)), count)


def dirichlet(pools: Pools, skew: Skew, count: int, rng: np.random.Generator) -> list[Indices]:
    """Give each client equally many images, its classes mixed by Dir(alpha) while stocks last."""
    shuffled, stock = pools.shuffled(rng), pools.sizes
    shares = []
    for size in _sizes(int(stock.sum()), count):
        counts = dirichlet_counts(size, stock, skew.alpha, rng)
        # What is left of each class is its first `stock` images; take from their end.
        parts = [p[s - c : s] for p, s, c in zip(shuffled, stock, counts, strict=True)]
        shares.append(rng.permutation(np.concatenate(parts)))
        stock = stock - counts
    return shares


def pathological(pools: Pools, skew: Skew, count: int, rng: np.random.Generator) -> list[Indices]:
    """Give each client images of exactly `classes_per_client` classes.

    Each client in turn gets the classes that the fewest clients have, ties broken at random; the
    images of a class are then split evenly among its clients. With fewer clients times classes
    than there are classes, the images of the remaining classes go unused.

    Raises
    ------
    ValueError
        If there are fewer classes than a client gets, or fewer images of a class than its clients.
    """
    pools.check_classes(skew.classes_per_client)
    clients_of: list[list[int]] = [[] for _ in pools.classes]
    for client in range(count):
        order = rng.permutation(len(clients_of))
        fewest = sorted(order, key=lambda k: len(clients_of[k]))[: skew.classes_per_client]
        for k in fewest:
            clients_of[k].append(client)
    parts: list[list[Indices]] = [[] for _ in range(count)]
    for pool, clients in zip(pools.shuffled(rng), clients_of, strict=True):
        if clients and len(pool) < len(clients):
            raise ValueError(
                f"data.partition=pathological gives {len(clients)} clients a class of "
                f"{len(pool)} images; lower clients.count or data.classes_per_client."
            )
        for client, part in zip(clients, np.array_split(pool, max(len(clients), 1)), strict=False):
            parts[client].append(part)
    return [rng.permutation(np.concatenate(part)) for part in parts]


def shard(pools: Pools, skew: Skew, count: int, rng: np.random.Generator) -> list[Indices]:
    """Sort by class, cut into equal shards, give each client `classes_per_client` random ones.

    McMahan et al. (2017, arXiv 1602.05629), section 3: a shard holds one class, or two at a border.

    Raises
    ------
    ValueError
        If there are more shards than images.
    """
    per_client = skew.classes_per_client
    if (wanted := count * per_client) > (images := int(pools.sizes.sum())):
        raise ValueError(
            f"clients.count={count} times data.classes_per_client={per_client} is {wanted} shards, "
            f"more than {images} images."
        )
    shards = np.array_split(np.concatenate(pools.shuffled(rng)), wanted)
    order = rng.permutation(wanted).reshape(count, per_client)
    return [rng.permutation(np.concatenate([shards[s] for s in chosen])) for chosen in order]


SPLITS: dict[str, Split] = {f.__name__: f for f in (iid, dirichlet, pathological, shard)}


def _sizes(images: int, count: int) -> list[int]:
    return [images // count + (client < images % count) for client in range(count)]
