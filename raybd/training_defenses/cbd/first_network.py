"""The first network of CBD: the losses of all images over snapshots, and their low mode.

Zhang, Liu, Wang, Lu and Hu 2023, arXiv 2303.06818, first stage.
Differs: see the package's docstring; the low mode is that of a mixture of two normal distributions
over the logarithm of the losses.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.training.inference import infer
from raybd.training.trusted import trusted_accuracy
from raybd.types.data import Split
from raybd.types.models import Victim

Loss = Literal["ce", "gce", "lga"]
Combine = Literal["median", "mean", "min"]

TINY = 1e-8
"""Avoids the logarithm of zero and division by it; the authors' value."""


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
        return (loss_B.detach() - 0.5).sign() * loss_B
    return loss_B


def losses(victim: Victim, split: Split) -> Tensor:
    """Return the cross-entropy of every image, in double precision, without augmentation."""
    # Double: in float32 the losses of images known best all round to zero, and they are ranked.
    return F.cross_entropy(infer(victim, split.x_NCHW).double(), split.y_N, reduction="none")


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


def lowest(loss_N: Tensor) -> Tensor:
    """Return the rows of the 1 % of images with the lowest losses, but at least ten."""
    return loss_N.argsort()[: max(10, len(loss_N) // 100)]


@dataclass(frozen=True)
class Mode:
    """The lower one of two modes."""

    two: bool
    """Whether two modes describe the values better than one, by the Bayesian information
    criterion."""
    share: float
    """Share of the values that belong to it."""
    mean: float
    """Geometric mean of the values that belong to it."""
    bound: float
    """The highest logarithm of a value that belongs to it."""


def low_mode(value_N: Tensor) -> Mode:
    """Divide positive values by a mixture of two normal distributions over their logarithm."""
    from sklearn.mixture import GaussianMixture

    # The losses of poison and of clean images differ by orders of magnitude.
    log_N1 = (value_N.double() + TINY).log().numpy()[:, None]
    # Seeded, because the fit begins with a random division.
    one, two = (GaussianMixture(k, random_state=0).fit(log_N1) for k in (1, 2))
    low = int(two.means_[:, 0].argmin())

    # Where the two components meet, on a grid between their means.
    between_G = np.linspace(two.means_[low, 0], two.means_[1 - low, 0], 1001)
    # With unequal deviations the densities cross twice; only the crossing between the means counts.
    bound = between_G[two.predict(between_G[:, None]) == low].max(initial=between_G[0])
    return Mode(
        two=bool(two.bic(log_N1) < one.bic(log_N1)),
        share=float(two.weights_[low]),
        mean=float(np.exp(two.means_[low, 0])),
        bound=float(bound),
    )
