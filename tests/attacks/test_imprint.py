"""What `ImprintAttack` makes of bins no single sample explains."""

from __future__ import annotations

import torch

from attacks.imprint import explained


def test_the_batch_size_that_explains_most_bins_is_chosen():
    alone = torch.tensor([[4.0, -4.0], [8.0, 2.0], [6.0, -5.0]], dtype=torch.float64)
    observed = torch.tensor([1.0, 0.5, 2.7], dtype=torch.float64)  # the last one is a mixture
    size, labels, misfit = explained(alone, observed, 1e-3)
    assert size == 4
    assert labels[:2].tolist() == [0, 1]
    assert (misfit < 1e-3).tolist() == [True, True, False]


def test_bins_no_batch_size_explains_have_neither_size_nor_labels():
    alone = torch.tensor([[0.1, -0.1]], dtype=torch.float64)
    size, _, misfit = explained(alone, torch.tensor([3.0], dtype=torch.float64), 1e-3)
    assert size is None
    assert not (misfit < 1e-3).any()
