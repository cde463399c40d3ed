"""From error vectors to labels, multiplicities and the whole-batch certificate.

The error delta_i = J_i' dL_i/df at the second linear layer's output belongs to one sample, so each
sample's label is read by itself: the class whose own back-propagated error points the same way.
How long delta_i is says which share of the mean loss the sample carries, 1/B for a single one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.reading.losses import Loss, class_errors, sample_losses

DOUBTFUL = 0.999
"""Cosine below which a single label does not explain an error."""


@dataclass(frozen=True)
class Labels:
    """What the errors say about n samples.

    Attributes
    ----------
    labels : Tensor of shape (n,) or (n, C), optional
        Class indices for cross entropy; targets for squared loss and binary cross entropy, (n,)
        for one output; None where the loss does not say what they are.
    targets : Tensor of shape (n, C) or (n,), optional
        What the loss compares the output with: label distributions, targets, or class indices for
        a loss of the clients' own.
    shares : Tensor of shape (n,)
        Share of the mean loss each sample carries: a multiple of 1/B.
    agreement : Tensor of shape (n,)
        Cosine between the error found and the one its label implies.
    """

    labels: Tensor | None
    targets: Tensor | None
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
    loss : str or callable
        The clients' loss, as in `Problem`.
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
    if not isinstance(loss, str):
        return _by_trial(output, jacobian, delta, loss, rank)
    inverse = torch.linalg.pinv(jacobian.transpose(1, 2))  # CUDA's lstsq wants full rank
    error = (inverse @ delta[:, :, None])[:, :, 0]
    ones = torch.ones_like(error[:, 0])
    if loss == "bce_with_logits":
        targets = (error < 0).to(output)  # sigmoid minus target
    else:
        targets = output - error * rank * output.shape[1] / 2
    labels = targets[:, 0] if output.shape[1] == 1 else targets
    return Labels(labels, targets, ones / rank, ones)


def _by_trial(
    output: Tensor,
    jacobian: Tensor,
    delta: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    rank: int,
) -> Labels:
    """The class whose error points best the same way; none unless one does so for every sample."""
    errors = class_errors(loss, output)
    ones = torch.ones_like(delta[:, 0])
    if errors is None:
        return Labels(None, None, ones / rank, 0 * ones)
    pulled = torch.einsum("nco,nok->nck", errors, jacobian)
    agreement, _, labels = _best_match(pulled, delta)
    if not bool((agreement >= DOUBTFUL).all()):
        return Labels(None, None, ones / rank, agreement)
    return Labels(labels, labels, ones / rank, agreement)


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
    targets: Tensor | None,
    shares: Tensor,
    loss: Loss,
    pruned: bool = False,
    errors: tuple[str, Tensor] | None = None,
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
        The reconstructed batch; the shares weigh the samples' losses. Without targets only the
        parameters up to the layer of `errors` are compared.
    loss : str or callable
        The clients' loss, as in `Problem`.
    pruned : bool, default False
        Whether the observed gradient's zeros are entries that were not sent, and do not count.
    errors : (str, Tensor of shape (n, K)), optional
        Name of the second linear layer, and the errors at its output; needed without targets.

    Returns
    -------
    residual : float
        Relative Euclidean norm of the difference over all parameters.
    factor : float
        What the reconstruction's gradient had to be multiplied by, not negative.
    """
    parameters = {k: p for k, p in model.named_parameters() if k in gradient}
    with torch.enable_grad():
        if targets is None:
            assert errors is not None
            total = _paired(model, inputs, *errors)
        else:
            output = model(inputs).reshape(len(inputs), -1)
            total = (sample_losses(loss, output, targets) * shares).sum()
        computed = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    if targets is None:
        met = [value is not None for value in computed]
        parameters = {k: p for (k, p), m in zip(parameters.items(), met, strict=True) if m}
        computed = tuple(value for value in computed if value is not None)
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


def _paired(model: nn.Module, inputs: Tensor, layer: str, errors: Tensor) -> Tensor:
    """Sum of errors times a layer's outputs: its gradient is the loss' up to that layer."""
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[2]))
    try:
        model(inputs)
    finally:
        handle.remove()
    return (seen[0].reshape(len(inputs), -1) * errors).sum()
