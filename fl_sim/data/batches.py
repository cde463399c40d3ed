"""Which samples a client uses in a round: a pure function, used by client and evaluator alike.

The client trains on `batch_indices(...)`; the evaluator calls it with the same arguments to learn
the truth. Nothing has to be sent or stored, and no attack comes near it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fl_sim.data.seeds import Stream, torch_generator


def batch_indices(
    share: Tensor, size: int, *, seed: int, client: int, round: int, steps: int = 1
) -> Tensor:
    """Choose the batches of a client's local steps in one round.

    Successive steps walk through a random permutation of the client's share; when what is left of
    it is smaller than a batch, they go on with a new one.

    Parameters
    ----------
    share : int64 Tensor of shape (n,)
        Indices of the client's samples in the training set.
    size : int
        Batch size, 1 ... n.
    seed, client, round : int
        All that the choice depends on, besides share and size.
    steps : int, default 1
        Number of local steps. More steps never change the earlier ones.

    Returns
    -------
    int64 Tensor of shape (steps, size)
        Indices into the training set, distinct within each step if those of `share` are.

    Raises
    ------
    ValueError
        If the batch is larger than the share, or size or steps is not positive.
    """
    if size < 1:
        raise ValueError(f"clients.batch_size={size} is not positive.")
    if steps < 1:
        raise ValueError(f"clients.local_steps={steps} is not positive.")
    if size > len(share):
        raise ValueError(
            f"Client {client} holds {len(share)} images, fewer than clients.batch_size={size}; "
            f"lower it, or set data.samples_per_client to let clients draw overlapping samples."
        )
    generator = torch_generator(seed, Stream.BATCHES, client, round)
    per_pass = len(share) // size
    passes = -(-steps // per_pass)
    walks = [
        torch.randperm(len(share), generator=generator)[: per_pass * size] for _ in range(passes)
    ]
    return share[torch.cat(walks)].reshape(-1, size)[:steps]
