"""From error vectors to labels, multiplicities and the whole-batch certificate.

The error delta_i = J_i' dL_i/df at the second linear layer's output belongs to one sample, so each
sample's label is read by itself: the class whose own back-propagated error points the same way.
How long delta_i is says which share of the mean loss the sample carries, 1/B for a single one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.base import Loss

DOUBTFUL = 0.999
"""Cosine below which a single label does not explain an error."""


@dataclass(frozen=True)
class Labels:
    """What the errors say about n samples.

    Attributes
    ----------
    labels : Tensor of shape (n,) or (n, C)
        Class indices for cross entropy; targets for squared loss, (n,) for one output.
    targets : Tensor of shape (n, C)
        What the loss compares the output with: label distributions, or the squared loss' targets.
    shares : Tensor of shape (n,)
        Share of the mean loss each sample carries: a multiple of 1/B.
    agreement : Tensor of shape (n,)
        Cosine between the error found and the one its label implies.
    """

    labels: Tensor
    targets: Tensor
    shares: Tensor
    agreement: Tensor


def read_labels(
    model: nn.Module, outgoing: str, inputs: Tensor, delta: Tensor, loss: Loss, rank: int
) -> Labels:
    """Labels of reconstructed inputs.

    Parameters
    ----------
    model : nn.Module
        A private float64 copy in evaluation mode.
    outgoing : str
        Name of the second linear layer.
    inputs : Tensor of shape (n, *input_shape)
        Reconstructed inputs.
    delta : Tensor of shape (n, C2)
        Errors at that layer's output, in absolute scale.
    loss : "cross_entropy" or "mse"
        The clients' loss.
    rank : int
        Number of distinct samples, taken as batch size where squared loss cannot tell.

    Returns
    -------
    Labels
        Of all n inputs.
    """
    output, jacobian = output_jacobian(model, outgoing, inputs)
    if loss == "cross_entropy":
        return _classes(output, jacobian, delta)
    inverse = torch.linalg.pinv(jacobian.transpose(1, 2))  # CUDA's lstsq wants full rank
    error = (inverse @ delta[:, :, None])[:, :, 0]
    targets = output - error * rank * output.shape[1] / 2
    ones = torch.ones_like(error[:, 0])
    labels = targets[:, 0] if output.shape[1] == 1 else targets
    return Labels(labels, targets, ones / rank, ones)


def output_jacobian(model: nn.Module, outgoing: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Model output (n, C) and its derivative (n, C, C2) by the output of an inner layer.

    Parameters
    ----------
    model : nn.Module
        A private float64 copy in evaluation mode.
    outgoing : str
        Name of the inner layer.
    inputs : Tensor of shape (n, *input_shape)
        In float64.

    Returns
    -------
    output : Tensor of shape (n, C)
        Detached.
    jacobian : Tensor of shape (n, C, C2)
        C2 is the number of the inner layer's outputs per input.
    """
    caught: list[Tensor] = []

    def catch(module: nn.Module, args: object, output: Tensor) -> Tensor:
        caught.append(output.detach().requires_grad_(True))
        return caught[0]

    handle = model.get_submodule(outgoing).register_forward_hook(catch)
    try:
        with torch.enable_grad():
            output = model(inputs).reshape(len(inputs), -1)
    finally:
        handle.remove()
    rows = [
        torch.autograd.grad(output[:, c].sum(), caught[0], retain_graph=True)[0]
        for c in range(output.shape[1])
    ]
    return output.detach(), torch.stack(rows, 1).reshape(len(inputs), output.shape[1], -1)


def _classes(output: Tensor, jacobian: Tensor, delta: Tensor) -> Labels:
    """The class c maximising cos(J'(softmax f - e_c), delta); failing that, the best two classes.

    Two copies of one image under different labels a, b arrive as one sample whose error is the sum
    of both labels' errors; it is reported with label a and the share of both.
    """
    pull = torch.einsum("nc,nck->nk", torch.softmax(output, 1), jacobian)
    errors = pull[:, None, :] - jacobian  # (n, C, C2)
    agreement, share, labels = _best_match(errors, delta)
    targets = torch.nn.functional.one_hot(labels, output.shape[1]).to(output)
    for i in torch.nonzero(agreement < DOUBTFUL)[:, 0].tolist():
        first, second = torch.triu_indices(errors.shape[1], errors.shape[1], 1).to(labels)
        both = errors[i, first] + errors[i, second]
        match, half, pair = _best_match(both[None], delta[i : i + 1])
        if float(match) > max(DOUBTFUL, float(agreement[i])):
            a, b = first[pair[0]], second[pair[0]]
            agreement[i], share[i], labels[i] = match[0], 2 * half[0], a
            targets[i] = 0
            targets[i, torch.stack([a, b])] = 0.5
    return Labels(labels, targets, share, agreement)


def _best_match(errors: Tensor, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(cosine, length of delta in units of the match, index) of the error closest to delta."""
    product = torch.einsum("nck,nk->nc", errors, delta)
    length = errors.norm(dim=2)
    cosine = product / (length * delta.norm(dim=1, keepdim=True)).clamp_min(1e-300)
    best, index = cosine.max(1)
    at = index[:, None]
    share = product.gather(1, at) / length.gather(1, at).square().clamp_min(1e-300)
    return best, share[:, 0], index


def batch_size(shares: Tensor, rank: int) -> tuple[int, Tensor]:
    """Batch size and multiplicities from the shares of a complete set of samples.

    Shares are multiples of 1/B that sum to one; the smallest belongs to a single sample unless
    every image is repeated.

    Parameters
    ----------
    shares : Tensor of shape (n,)
        Shares of the samples.
    rank : int
        What to fall back on if the shares are no multiples of anything.

    Returns
    -------
    size : int
    multiplicities : Tensor of shape (n,)
    """
    ones = torch.ones(len(shares), dtype=torch.int64, device=shares.device)
    if len(shares) != rank or not bool((shares > 0).all()):
        return rank, ones
    unit = shares.min()
    multiples = shares / unit
    whole = multiples.round()
    if float((multiples / whole - 1).abs().max()) > 0.05 or float(multiples.max()) > 100:
        return rank, ones
    return int(whole.sum()), whole.long()


def replay_residual(
    model: nn.Module,
    gradient: dict[str, Tensor],
    inputs: Tensor,
    targets: Tensor,
    shares: Tensor,
    loss: Loss,
    pruned: bool = False,
) -> tuple[float, float]:
    """Whole-batch certificate: how far the reconstruction's own gradient is from the observed one.

    Compared up to a positive factor, which norm clipping leaves unknown.

    Parameters
    ----------
    model : nn.Module
        A private float64 copy in evaluation mode.
    gradient : dict from parameter name to Tensor
        As observed.
    inputs, targets, shares : Tensor
        The reconstructed batch; the shares weigh the samples' losses.
    loss : "cross_entropy" or "mse"
        The clients' loss.
    pruned : bool, default False
        Whether the observed gradient's zeros are entries that were not sent, and do not count.

    Returns
    -------
    residual : float
        Relative Euclidean norm of the difference over all parameters.
    factor : float
        What the reconstruction's gradient had to be multiplied by, not negative.
    """
    parameters = {k: p for k, p in model.named_parameters() if k in gradient}
    with torch.enable_grad():
        output = model(inputs).reshape(len(inputs), -1)
        if loss == "cross_entropy":
            each = nn.functional.cross_entropy(output, targets, reduction="none")
        else:
            each = (output - targets).square().mean(1)
        total = (each * shares).sum()
        computed = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    if pruned:
        computed = tuple(
            None if value is None else torch.where(gradient[name] == 0, 0, value)
            for name, value in zip(parameters, computed, strict=True)
        )
    overlap, own, size = 0.0, 0.0, 0.0
    for name, value in zip(parameters, computed, strict=True):
        observed = gradient[name].double()
        size += float(observed.square().sum())
        if value is not None:
            own += float(value.square().sum())
            overlap += float((observed * value).sum())
    if not (size > 0 and own > 0):
        return float(size > 0), 1.0
    factor = max(overlap / own, 0.0)
    gap = sum(
        float((gradient[name].double() - (0.0 if value is None else factor * value)).square().sum())
        for name, value in zip(parameters, computed, strict=True)
    )
    return (gap / size) ** 0.5, factor
