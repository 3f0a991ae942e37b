"""A moving average of weights, which a training hands out instead of the weights themselves.

Polyak and Juditsky 1992; its short memory at the start is that of timm's and TensorFlow's.
Differs from torch's AveragedModel: it waits for no GPU, which that one does at each step.
"""

from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage:
    """The exponential moving average of all weights and statistics of a model."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin with the weights as they are. `decay`: share that a step keeps, in 0..1."""
        self.model = model
        self.decay = decay
        self.steps = 0
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Count the weights as they are now in."""
        self.steps += 1
        # At the start the average would else be mostly weights that were never trained.
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        state = self.model.state_dict()
        floats = [name for name, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[name] for name in floats], [state[name] for name in floats], 1 - decay
        )
        for name in state.keys() - set(floats):
            self.average[name].copy_(state[name])  # a count of batches has no mean

    def hand_out(self) -> None:
        """Put the average into the model."""
        self.model.load_state_dict(self.average)

    def state_dict(self) -> dict[str, Any]:
        """Return it as a checkpoint has it."""
        return {"average": dict(self.average), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        kept: dict[str, Tensor] = state["average"]
        for name, value in kept.items():
            self.average[name].copy_(value)
        self.steps = int(state["steps"])
