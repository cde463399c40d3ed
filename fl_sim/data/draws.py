"""One client's own draw of n images, each a function of (pools, skew, size, rng).

The same four kinds of skew as in `splits`, for clients that do not share a finite stock. `size` is
the number of images, at least 1 and at most those of all `pools`; what comes back are that many
distinct indices, of shape (size,), in random order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fl_sim.data.pools import Indices, Pools, Skew, dirichlet_counts, even_counts

Draw = Callable[[Pools, Skew, int, np.random.Generator], Indices]


def iid(pools: Pools, skew: Skew, size: int, rng: np.random.Generator) -> Indices:
    """Draw from all images alike."""
    return rng.choice(np.concatenate(pools.classes), size, replace=False)


def dirichlet(pools: Pools, skew: Skew, size: int, rng: np.random.Generator) -> Indices:
    """Draw the client's class mixture from Dir(alpha), then images of these classes."""
    counts = dirichlet_counts(size, pools.sizes, skew.alpha, rng)
    return rng.permutation(pools.choose(counts, rng))


def pathological(pools: Pools, skew: Skew, size: int, rng: np.random.Generator) -> Indices:
    """Draw `classes_per_client` classes, then equally many images of each.

    Raises
    ------
    ValueError
        If there are fewer classes, or the classes drawn hold fewer images than asked for.
    """
    pools.check_classes(skew.classes_per_client)
    chosen = rng.choice(len(pools.classes), skew.classes_per_client, replace=False)
    stock = np.zeros_like(pools.sizes)
    stock[chosen] = pools.sizes[chosen]
    if size > (images := int(stock.sum())):
        raise ValueError(
            f"data.samples_per_client={size} is more than the {images} images of the client's "
            f"data.classes_per_client={skew.classes_per_client} classes."
        )
    counts = np.zeros_like(stock)
    counts[chosen] = even_counts(size, stock[chosen])
    return rng.permutation(pools.choose(counts, rng))


def shard(pools: Pools, skew: Skew, size: int, rng: np.random.Generator) -> Indices:
    """Sort by class, cut into shards, draw `classes_per_client` of them.

    Raises
    ------
    ValueError
        If that is more shards than images asked for.
    """
    per_client = skew.classes_per_client
    if per_client > size:
        raise ValueError(
            f"data.classes_per_client={per_client} shards cannot be made of "
            f"data.samples_per_client={size} images."
        )
    ordered = np.concatenate(pools.classes)
    shard_size = -(-size // per_client)
    shards = np.array_split(ordered, max(len(ordered) // shard_size, per_client))
    chosen = rng.choice(len(shards), per_client, replace=False)
    return rng.permutation(np.concatenate([shards[s] for s in chosen]))[:size]


DRAWS: dict[str, Draw] = {f.__name__: f for f in (iid, dirichlet, pathological, shard)}
