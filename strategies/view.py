"""What a threat model lets the server see of one client's reply: the only door to an attack.

A `ServerView` is built from the messages the server sent and received, never from the client's
data. Whatever more a scenario grants has to come as an `attacks.Knowledge`, by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Generator, Tensor, nn

from attacks.base import Attack, Knowledge, LocalWork, Loss, Reconstruction


@dataclass(frozen=True)
class ServerView:
    """One client's reply as the server understands it.

    Attributes
    ----------
    model : nn.Module
        The architecture, holding the parameters the server sent.
    gradient : dict from parameter name to Tensor
        What the reply says about the gradient of the client's mean loss.
    input_shape : tuple of int, optional
        Shape of one input of the model.
    loss : str
        Name of the clients' loss.
    knows : Knowledge
        What the threat model grants besides; empty unless a scenario says so by name.
    local : LocalWork
        Local steps and learning rate, which the server itself prescribes.
    """

    model: nn.Module
    gradient: dict[str, Tensor]
    input_shape: tuple[int, ...] | None
    loss: Loss
    knows: Knowledge
    local: LocalWork = field(default_factory=LocalWork)

    def attacked_by(self, attack: Attack, generator: Generator) -> Reconstruction:
        """Hand everything in this view, and nothing else, to an attack."""
        return attack.run(
            self.model,
            self.gradient,
            input_shape=self.input_shape,
            loss=self.loss,
            knows=self.knows,
            generator=generator,
            local=self.local,
        )
