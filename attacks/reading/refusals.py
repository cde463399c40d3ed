"""Why the first linear layer of a module cannot be read, in one sentence that is true."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from attacks.reading.conduct import same_values
from attacks.reading.private import is_linear
from attacks.reading.recording import Recording

BEHIND = "FeatureInversion (attack=features) reads such layers behind a front end."


def unread_layer(recording: Recording) -> str | None:
    """What stands in the way of reading the first linear layer of a recorded module.

    Parameters
    ----------
    recording : Recording
        Of a private copy in evaluation mode.

    Returns
    -------
    str or None
        None if the layer is handed one row per sample, the input itself, and its parameters are
        used once.
    """
    computed = [n for n, m in recording.model.named_modules() if _computes_its_weight(m)]
    if computed:
        return (
            f"{computed[0]!r} computes its weight from other parameters, whose gradients are not "
            "the weight's, so the layers around it cannot be read."
        )
    if not recording.linear:
        return "No nn.Linear takes part in the model's forward pass, so there is none to read."
    first = min(recording.linear)
    name = recording.steps[first].linear
    assert name is not None
    seen = recording.linear[first][0]
    if shared(recording.uses(), name):
        return (
            f"The parameters of {name!r} are used more than once in a forward pass, so their "
            "gradient is a sum over all uses."
        )
    if not same_values(seen, recording.inputs):
        return (
            f"{name!r}, the first linear layer that the model calls, is not handed the input "
            f"itself; {BEHIND}"
        )
    if len(recording.inputs) < seen.shape[:-1].numel():
        return f"{name!r} sees several rows of each sample, which its gradient sums up; {BEHIND}"
    return None


def shared(uses: Mapping[str, int], layer: str) -> bool:
    """Whether a layer's weight or bias takes part in more than one step of a forward pass."""
    own = [f"{layer}.{kind}" if layer else kind for kind in ("weight", "bias")]
    return any(uses.get(name, 0) > 1 for name in own)


def _computes_its_weight(module: nn.Module) -> bool:
    """Whether a linear layer's weight is no parameter: pruned by a mask, normalised."""
    linear = isinstance(module, nn.Linear) and is_linear(module)
    kept = isinstance(module._parameters.get("weight"), nn.Parameter)
    return linear and not kept and isinstance(getattr(module, "weight", None), Tensor)
