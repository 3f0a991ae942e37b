"""The first network of CBD: the losses of all images over snapshots, and the weights from them.

Zhang, Liu, Wang, Lu and Hu 2023, arXiv 2303.06818, first stage.
Differs: see the package's docstring.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.training.shortcut import TINY, bounded, losses
from raybd.training.trusted import trusted_accuracy
from raybd.types.data import Split
from raybd.types.models import Victim

Loss = Literal["ce", "gce", "lga"]
Combine = Literal["median", "mean", "min"]


class Snapshots:
    """The objective of the first network, and what is kept of it.

    After some of the steps it keeps the losses of all images, after the last one also the weights.
    """

    def __init__(
        self, victim: Victim, split: Split, clean: Split, kind: Loss, steps: int, snapshots: int
    ) -> None:
        self.victim = victim
        self.split = split
        self.clean = clean
        self.kind = kind
        # The last step is always one of them; with few steps, several may fall together.
        self.due = {max(1, round(steps * k / snapshots)) for k in range(1, snapshots + 1)}
        self.step = 0
        self.losses: dict[int, Tensor] = {}
        self.accuracies: dict[int, float] = {}
        """Accuracy on the trusted images after the same steps; empty without such images."""
        self.weights: dict[str, Tensor] = {}

    def __call__(self, model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
        return shortcut_loss(self.kind, model(x_BCHW), y_B)

    def after_step(self) -> None:
        """Count a step, and take what is due after it."""
        self.step += 1
        if self.step not in self.due:
            return
        self.losses[self.step] = losses(self.victim, self.split)
        accuracy = trusted_accuracy(self.victim, self.clean)
        if accuracy is not None:
            self.accuracies[self.step] = accuracy
        # Taking losses has put the network into eval mode in the middle of an epoch.
        self.victim.train()
        if self.step == max(self.due):
            state = self.victim.state_dict()
            # Cloned: on a CPU, `cpu` copies nothing, and training goes on to the end of the epoch.
            self.weights = {name: tensor.cpu().clone() for name, tensor in state.items()}

    @property
    def best_accuracy(self) -> float | None:
        """The highest accuracy on the trusted images; None without such images."""
        return max(self.accuracies.values(), default=None)

    def combined(self, how: Combine) -> Tensor:
        """Return one loss for each image."""
        losses_SN = torch.stack(list(self.losses.values()))
        return {
            "median": losses_SN.median(0).values,
            "mean": losses_SN.mean(0),
            "min": losses_SN.amin(0),
        }[how]

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs."""
        # The weights are taken in the last epoch, which a resumed training repeats.
        return {"step": self.step, "losses": self.losses, "accuracies": self.accuracies}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self.step = state["step"]
        self.losses = state["losses"]
        self.accuracies = state["accuracies"]


def shortcut_loss(kind: Loss, logits_BK: Tensor, y_B: Tensor) -> Tensor:
    """Return the losses that the first network is trained on: ce, gce or lga, see `first_loss`."""
    loss_B = F.cross_entropy(logits_BK.float(), y_B, reduction="none")
    if kind == "gce":  # Zhang and Sabuncu 2018, arXiv 1805.07836, q = 0.7
        return (1 - (-0.7 * loss_B).exp()) / 0.7
    if kind == "lga":  # Li et al. 2021, arXiv 2110.11571, local gradient ascent, gamma = 0.5
        return bounded("lga", "image", loss_B, 0.5, len(loss_B))
    return loss_B


def weights(first_loss_B: Tensor, loss_B: Tensor) -> Tensor:
    """Return formula (9), in 0..1, without gradient.

    It is small where the first network knows an image and the second one does not.
    """
    # Detached, or the network could lower its loss by lowering the weights.
    first_loss_B = first_loss_B.detach()
    loss_B = loss_B.detach()
    return first_loss_B / (first_loss_B + loss_B + TINY)


def on_scale_of(first_loss_N: Tensor, loss_N: Tensor) -> Tensor:
    """Return the second network's losses of images on the scale of the first network's.

    They are multiplied by the ratio of the medians over these images, most of which are clean.
    """
    # A network that knows clean images has losses of orders of magnitude below those of a new one.
    # Their ratio alone would then give nearly all of the weight to the images it knows least.
    return loss_N * (first_loss_N.median() / loss_N.median().clamp_min(TINY))
