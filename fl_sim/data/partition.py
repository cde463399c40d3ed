"""`share`: which training images a client holds, a pure function of labels, settings and seed.

Without `samples_per_client` the training set is split: the clients' shares are disjoint. With it,
each client draws its own n images without looking at the others, so that shares may overlap and
one share costs the same whether there are ten clients or ten thousand.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fl_sim.data.draws import DRAWS
from fl_sim.data.pools import Pools, Skew
from fl_sim.data.seeds import Stream, numpy_generator
from fl_sim.data.splits import SPLITS

if TYPE_CHECKING:
    from fl_sim.config import DataConfig


def share(labels: Tensor, config: DataConfig, count: int, seed: int, client: int) -> Tensor:
    """Return the training images of one client.

    Parameters
    ----------
    labels : int64 Tensor of shape (N,)
        Of the training set.
    config : DataConfig
        Its keys `partition`, `alpha`, `classes_per_client` and `samples_per_client` are read.
    count : int
        Number of clients.
    seed : int
        Seed of the scenario.
    client : int
        0 ... count - 1.

    Returns
    -------
    int64 Tensor of shape (n,)
        Distinct indices into the training set.

    Raises
    ------
    ValueError
        If a value is out of range or there are too few images; one sentence names it.
    """
    if not 0 <= client < count:
        raise ValueError(f"client={client} is not one of clients.count={count}.")
    labelled = _Labels(labels)
    scheme, pools = str(config.partition), _pools(labelled)
    if scheme not in SPLITS:
        raise ValueError(f"data.partition={scheme} is not one of {', '.join(SPLITS)}.")
    skew = Skew(alpha=float(config.alpha), classes_per_client=int(config.classes_per_client))
    if (size := config.samples_per_client) is None:
        return _split(labelled, scheme, skew, count, seed)[client]
    if not 1 <= size <= len(labels):
        raise ValueError(
            f"data.samples_per_client={size} is not in 1 ... {len(labels)}, "
            f"the number of training images."
        )
    rng = numpy_generator(seed, Stream.CLIENT_SAMPLES, client)
    return torch.from_numpy(DRAWS[scheme](pools, skew, size, rng))


class _Labels:
    """A label tensor as a key of a cache: equal only to itself, as long as it is not changed."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.key = (id(tensor), tensor._version)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Labels) and self.key == other.key


@lru_cache(maxsize=4)
def _pools(labels: _Labels) -> Pools:
    return Pools.of(labels.tensor.cpu().numpy())


@lru_cache(maxsize=4)
def _split(labels: _Labels, scheme: str, skew: Skew, count: int, seed: int) -> list[Tensor]:
    images = len(labels.tensor)
    if count > images:
        raise ValueError(
            f"clients.count={count} clients cannot share {images} images; "
            f"set data.samples_per_client to let clients draw overlapping samples."
        )
    rng = numpy_generator(seed, Stream.PARTITION)
    return [torch.from_numpy(s) for s in SPLITS[scheme](_pools(labels), skew, count, rng)]
