"""The Hessian of a victim's mean loss, as products with vectors. Workers share the images."""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from raybd.distributed import group
from raybd.types.models import Victim

AT_ONCE = 250
"""Images whose second derivatives are computed at the same time."""
Made = TypeVar("Made")


class Curvature:
    """The Hessian of mean cross-entropy by all weights of encoder and head, in eval mode."""

    def __init__(self, victim: Victim, x_NCHW: Tensor, y_N: Tensor) -> None:
        self.device = group.device()
        self._victim = copy.deepcopy(victim).to(self.device).eval().requires_grad_(True)
        assert self._victim.head is not None
        self._weights = [*self._victim.encoder.parameters(), *self._victim.head.parameters()]
        self.size = sum(weight.numel() for weight in self._weights)
        self._images = len(y_N)
        self._batches = [
            (x_NCHW[rows].to(self.device), y_N[rows].to(self.device))
            for rows in group.batches(len(y_N), AT_ONCE)
        ]

    def led(self, work: Callable[[], Made]) -> Made:
        """Return what `work` returns, on every worker. It runs on the first one alone.

        The others take part in each product that it asks for: it may ask for any number.
        """
        if group.rank():
            while (v_P := group.broadcast(lambda: None)) is not None:
                self._product(v_P)
            return group.broadcast(lambda: None)  # type: ignore[no-any-return]
        found = work()
        group.broadcast(lambda: None)
        return group.broadcast(lambda: found)  # type: ignore[no-any-return]

    def __matmul__(self, v_P: Tensor) -> Tensor:
        """Return the product with a vector, float32, on the CPU. Only within `led`."""
        return self._product(group.broadcast(lambda: v_P.float().cpu()))

    def _product(self, v_P: Tensor) -> Tensor:
        v_P = v_P.to(self.device)
        part_P = torch.zeros(self.size, device=self.device)
        for x_BCHW, y_B in self._batches:
            # Backward twice. Forward over backward (curvlinops) misses terms of layer
            # normalisation, and the fused attention has no second derivatives.
            with sdpa_kernel(SDPBackend.MATH):
                # A sum, because batches and the shares of the workers differ in size.
                loss = F.cross_entropy(self._victim(x_BCHW), y_B, reduction="sum")
                first_P = self._gradient(loss, create_graph=True)
                part_P += self._gradient(first_P @ v_P)
        return group.sum_over(part_P).cpu() / self._images

    def _gradient(self, value: Tensor, create_graph: bool = False) -> Tensor:
        """Return the gradient by all weights, as a vector; zero for those that are not used."""
        parts = torch.autograd.grad(
            value, self._weights, create_graph=create_graph, materialize_grads=True
        )
        return torch.cat([part.flatten() for part in parts])
