"""Whether a client's gradient can be differentiated by its batch, asked before the search.

Where it cannot, an attack that matches gradients cannot run, and says which layer is in the way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.errors import NotApplicable
from attacks.matching.client import Client
from attacks.reading.inputs import random_inputs
from attacks.reading.once import (
    MISSING,
    ends_early,
    lacks_second_derivative,
    without_second_derivative,
)

LACKS = MISSING.format("an attack that matches gradients")


def check_derivatives(client: Client, shape: tuple[int, ...], labels: Tensor) -> None:
    """Refuse a client whose gradient cannot be computed, or would be differentiated wrongly.

    Parameters
    ----------
    client : Client
        Evaluated once.
    shape : tuple of int
        (B, *input_shape).
    labels : Tensor
        Any that the client's loss takes.

    Raises
    ------
    NotApplicable
        If model or loss raise something; if a layer is marked as differentiable once, where the
        derivative would lack a part without a word. The message says what, or names the layer.
    """
    inputs = random_inputs(client.model, shape[1:], shape[0]).requires_grad_(True)
    try:
        partial = ends_early(client.gradient(inputs, labels))
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # the model's and the loss' own code may raise anything
        told = str(error).strip().splitlines() or [type(error).__name__]
        lacking = undifferentiable(client, shape, labels)
        reason = lacking or f"The client's gradient cannot be computed: {told[0].rstrip('.')}."
        raise NotApplicable(reason) from error
    if partial:
        raise NotApplicable(undifferentiable(client, shape, labels) or f"The model {LACKS}")


def undifferentiable(client: Client, shape: tuple[int, ...], labels: Tensor) -> str | None:
    """Complaint about a layer or a loss without a second derivative.

    Parameters
    ----------
    client : Client
        Its model is run a few times.
    shape : tuple of int
        (B, *input_shape).
    labels : Tensor
        Any that the client's loss takes.

    Returns
    -------
    str or None
        None if there is none.
    """
    inputs = random_inputs(client.model, shape[1:], shape[0])
    if layer := without_second_derivative(client.model, inputs):
        return f"The layer {layer} {LACKS}"
    if isinstance(client.loss, str):
        return None
    with torch.no_grad():
        output = client.model(inputs)
    lacking = lacks_second_derivative(client.loss, (output, labels))
    return f"The clients' loss {LACKS}" if lacking else None
