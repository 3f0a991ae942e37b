"""How much two embeddings of the same images depend on each other, in Wasserstein distance, as a critic measures it.

Zhang, Liu, Wang, Lu and Hu 2023, arXiv 2303.06818, the independence term; the dependency measure is that of Ozair et al.
2019, arXiv 1903.11780.
Differs from the authors' code: weights are divided by the larger of one and their largest singular value (there: by its square
root, even below one, and biases too), so that without dropout the critic is 1-Lipschitz; it learns from the same batch and view
as the network.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from raybd.distributed import group

_ITERATIONS = 5
"""Of power iteration, for each projection; they go on from the last one, and a step of Adam moves the weights little."""


class Dependency:
    """A critic T of two embeddings that is trained to tell pairs of one image from pairs of two; the same on every worker."""

    def __init__(self, width: int, lr: float, steps: int, dropout: float, seed: int) -> None:
        device, self.steps, self.dropout = group.device(), steps, dropout
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.critic = nn.Sequential(nn.Linear(2 * width, width), nn.Linear(width, 1)).to(device)
            self.left = [
                F.normalize(torch.randn(len(layer.weight)), dim=0).to(device)
                for layer in self._layers()
            ]
        self.optimizer = torch.optim.Adam(self.critic.parameters(), lr, maximize=True)
        self.rng = Generator(device).manual_seed(seed)
        self._project(iterations=20 * _ITERATIONS)

    def learn(self, r_BD: Tensor, z_BD: Tensor) -> None:
        """Train the critic; the embeddings are those of the whole batch and keep no gradient."""
        with torch.autocast(z_BD.device.type, enabled=False):
            for _ in range(self.steps):
                self.optimizer.zero_grad(set_to_none=True)
                with torch.enable_grad():
                    self._gap(r_BD.detach().float(), z_BD.detach().float(), self.dropout).backward()
                self.optimizer.step()
                self._project()

    def measure(self, r_BD: Tensor, z_BD: Tensor) -> Tensor:
        """The mean of T over pairs of one image, less that over pairs of neighbours; gradients reach the embeddings alone."""
        self.critic.requires_grad_(False)
        with torch.autocast(z_BD.device.type, enabled=False):
            gap = self._gap(r_BD.float(), z_BD.float(), 0.0)
        self.critic.requires_grad_(True)
        return gap

    def state_dict(self) -> dict[str, Any]:
        return {
            "critic": self.critic.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "left": self.left,
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.left = [left_D.to(group.device()) for left_D in state["left"]]
        self.rng.set_state(state["rng"])

    def _gap(self, r_BD: Tensor, z_BD: Tensor, dropout: float) -> Tensor:
        return (
            self._value(r_BD, z_BD, dropout) - self._value(r_BD, z_BD.roll(1, 0), dropout)
        ).mean()

    def _value(self, r_BD: Tensor, z_BD: Tensor, dropout: float) -> Tensor:
        hidden, out = self._layers()
        hidden_BD = F.leaky_relu(hidden(self._drop(torch.cat([r_BD, z_BD], 1), dropout)))
        value_B1: Tensor = out(self._drop(hidden_BD, dropout))
        return value_B1

    def _drop(self, z_BD: Tensor, share: float) -> Tensor:
        """Dropout that draws from the critic's own stream."""
        if not share:
            return z_BD
        kept_BD = torch.rand(z_BD.shape, generator=self.rng, device=z_BD.device) >= share
        return z_BD * kept_BD / (1 - share)

    def _layers(self) -> list[nn.Linear]:
        return [layer for layer in self.critic if isinstance(layer, nn.Linear)]

    @torch.no_grad()
    def _project(self, iterations: int = _ITERATIONS) -> None:
        for at, layer in enumerate(self._layers()):
            largest, self.left[at] = largest_singular_value(layer.weight, self.left[at], iterations)
            layer.weight /= largest.clamp_min(1.0)


def largest_singular_value(
    weight_DD: Tensor, left_D: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """The largest singular value by power iteration from a left vector, and the left vector that it ends at."""
    for _ in range(iterations):
        right_D = F.normalize(weight_DD.T @ left_D, dim=0)
        left_D = F.normalize(weight_DD @ right_D, dim=0)
    return left_D @ weight_DD @ F.normalize(weight_DD.T @ left_D, dim=0), left_D
