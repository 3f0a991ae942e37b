"""How much two embeddings of the same images depend on each other, as a critic measures it.

Zhang, Liu, Wang, Lu and Hu 2023, arXiv 2303.06818, the independence term; the dependency measure (a
Wasserstein distance) is that of Ozair et al. 2019, arXiv 1903.11780.
Differs from the authors' code: weights are divided by the larger of one and their largest singular
value (there: by its square root, even below one, and biases too), so that without dropout the
critic is 1-Lipschitz; it learns from the same batch and view as the network.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from raybd.distributed import group

_POWER_ITERATIONS = 5
"""Iterations for each projection. They start at the last vector: a step moves weights little."""


class Dependency:
    """A critic T of two embeddings, trained to tell pairs of one image from pairs of two images.

    It is the same on every worker.
    """

    def __init__(self, width: int, lr: float, steps: int, dropout: float, seed: int) -> None:
        device = group.device()
        self.steps = steps
        self.dropout = dropout
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.critic = nn.Sequential(nn.Linear(2 * width, width), nn.Linear(width, 1)).to(device)
            self.left = [
                F.normalize(torch.randn(len(layer.weight)), dim=0).to(device)
                for layer in self.layers()
            ]
        self.optimizer = torch.optim.Adam(self.critic.parameters(), lr, maximize=True)
        self.rng = Generator(device).manual_seed(seed)
        # The first vectors are random, and need more iterations than later ones.
        self.project(iterations=20 * _POWER_ITERATIONS)

    def learn(self, r_BD: Tensor, z_BD: Tensor) -> None:
        """Train the critic on the embeddings of a whole batch, which get no gradient."""
        with torch.autocast(z_BD.device.type, enabled=False):
            for _ in range(self.steps):
                self.optimizer.zero_grad(set_to_none=True)
                with torch.enable_grad():
                    # Detached: the critic ascends what the network descends.
                    r_apart_BD = r_BD.detach().float()
                    z_apart_BD = z_BD.detach().float()
                    self._gap(r_apart_BD, z_apart_BD, self.dropout).backward()
                self.optimizer.step()
                self.project()

    def measure(self, r_BD: Tensor, z_BD: Tensor) -> Tensor:
        """Return the mean of T over pairs of one image, minus that over pairs of two images.

        Gradients reach the embeddings, not the critic.
        """
        self.critic.requires_grad_(False)
        with torch.autocast(z_BD.device.type, enabled=False):
            # Without dropout, whose rescaling would make the critic steeper than 1-Lipschitz.
            gap = self._gap(r_BD.float(), z_BD.float(), 0.0)
        self.critic.requires_grad_(True)
        return gap

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs."""
        return {
            "critic": self.critic.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "left": self.left,
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.left = [left_D.to(group.device()) for left_D in state["left"]]
        self.rng.set_state(state["rng"])

    def layers(self) -> list[nn.Linear]:
        """Return the two layers of the critic."""
        return [layer for layer in self.critic if isinstance(layer, nn.Linear)]

    @torch.no_grad()
    def project(self, iterations: int = _POWER_ITERATIONS) -> None:
        """Bring the largest singular value of each weight down to 1 where it is larger."""
        for at, layer in enumerate(self.layers()):
            largest, self.left[at] = largest_singular_value(layer.weight, self.left[at], iterations)
            # A bias only shifts the output, so that it has no part in the Lipschitz constant.
            layer.weight /= largest.clamp_min(1.0)

    def _gap(self, r_BD: Tensor, z_BD: Tensor, dropout: float) -> Tensor:
        joint_B1 = self._value(r_BD, z_BD, dropout)
        # Neighbours in the batch are different images.
        apart_B1 = self._value(r_BD, z_BD.roll(1, 0), dropout)
        return (joint_B1 - apart_B1).mean()

    def _value(self, r_BD: Tensor, z_BD: Tensor, dropout: float) -> Tensor:
        hidden, out = self.layers()
        # Leaky ReLU is 1-Lipschitz itself, so that bounding the weights bounds the critic.
        hidden_BD = F.leaky_relu(hidden(self._drop(torch.cat([r_BD, z_BD], 1), dropout)))
        value_B1: Tensor = out(self._drop(hidden_BD, dropout))
        return value_B1

    def _drop(self, z_BD: Tensor, share: float) -> Tensor:
        """Apply dropout that draws from the critic's own stream."""
        if not share:
            return z_BD
        # The global stream may differ between workers, and the critic must not.
        kept_BD = torch.rand(z_BD.shape, generator=self.rng, device=z_BD.device) >= share
        return z_BD * kept_BD / (1 - share)


def largest_singular_value(
    weight_DD: Tensor, left_D: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """Return the largest singular value by power iteration, and the left vector where it ends."""
    for _ in range(iterations):
        right_D = F.normalize(weight_DD.T @ left_D, dim=0)
        left_D = F.normalize(weight_DD @ right_D, dim=0)
    return left_D @ weight_DD @ F.normalize(weight_DD.T @ left_D, dim=0), left_D
