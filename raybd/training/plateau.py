"""A learning rate that falls where the training loss no longer does."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class Plateau(LambdaLR):
    """A schedule by step, times `gamma` for each plateau of the loss by epoch.

    torch's ReduceLROnPlateau takes no step before the loss is known, so that it cannot warm up.
    """

    def __init__(
        self, optimizer: Optimizer, by_step: Callable[[int], float], gamma: float, patience: int
    ) -> None:
        """Begin without a plateau. `patience`: epochs in a row that need not lower the loss."""
        # Before torch's own, which asks for the first factor. All of them are in `state_dict`.
        self.fallen = 1.0
        self.lowest = math.inf
        self.waited = 0
        self.gamma = gamma
        self.patience = patience
        super().__init__(optimizer, lambda step: self.fallen * by_step(step))

    def end_epoch(self, loss: float) -> None:
        """Look at the mean loss of an epoch; what follows is for the steps of the next one."""
        if loss < self.lowest:
            self.lowest = loss
            self.waited = 0
            return
        self.waited += 1
        if self.waited <= self.patience:
            return
        self.waited = 0
        self.fallen *= self.gamma
        # The rate of the next step is set already.
        for group in self.optimizer.param_groups:
            group["lr"] *= self.gamma
