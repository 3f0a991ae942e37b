"""SAU: unlearn the adversarial examples that the victim shares with the network that it becomes.

Wei, Zhang, Zha and Wu 2023, arXiv 2307.10562, algorithm 1. An example is shared if both networks
give it the same label, and it is not the one that they give to the image without the perturbation:
for these, the trigger is the easiest way. The network learns the trusted images, and to give less
probability to what the untouched victim says of a perturbed one.
Differs: no image is augmented, and batch normalisation keeps its statistics (the paper's code can
move them, at more accuracy lost); predictions on clean images are computed once for each batch; a
part of the trusted images is held out.
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.repairs._clean_accuracy import accuracy_facts, lost
from raybd.repairs._tuning import Targets
from raybd.training.augmentation import Augment
from raybd.training.held_out import fit_and_held
from raybd.training.loop import fit
from raybd.training.recipe import Recipe
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended

TINY = 1e-8
"""Smallest probability whose logarithm is taken."""


class Sau(Targets, Recipe, Repair):
    """Train on trusted images, and away from the victim's label of shared adversarial examples."""

    batch_size: int = Field(256, ge=1)
    """Images per step over all workers."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """SGD has Nesterov momentum; Adam decouples its weight decay."""
    lr: float = Field(1e-4, gt=0, json_schema_extra=searched(low=1e-5, high=1e-2, log=True))
    """Highest learning rate."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty (SGD) or decoupled decay (Adam)."""
    schedule: Literal["cosine", "step", "constant"] = "constant"
    """How the learning rate falls: to zero at the last step (cosine), by `gamma` at each milestone
    (step), or not at all."""
    augment: Augment = "none"
    """Random crop and flip, either of them, or none, before an image is perturbed."""
    radius: float = Field(0.2, gt=0, le=1, json_schema_extra=searched(low=0.02, high=0.4))
    """Largest change of a pixel, in 0..1; sums are not clipped to valid pixels."""
    search_step: float = Field(0.2, gt=0, le=1)
    """Change of a pixel in a step of the search, in 0..1."""
    search_steps: int = Field(5, ge=1)
    """Steps of the search, at most."""
    fooling: float = Field(0.01, ge=0)
    """Weight of the losses of both networks in the search (beta 1)."""
    sharing: float = Field(1.0, ge=0)
    """Weight of the distance of both networks' outputs in the search (beta 2)."""
    clean_weight: float = Field(1.0, ge=0)
    """Weight of the loss of trusted images (lambda 1)."""
    adversarial_weight: float = Field(0.0, ge=0)
    """Weight of the loss of perturbed images with their true labels (lambda 2)."""
    unlearning_weight: float = Field(
        1.0, ge=0, json_schema_extra=searched(low=0.1, high=10.0, log=True)
    )
    """Weight of unlearning what the victim says of perturbed images (lambda 3)."""

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return a copy that has unlearned the shared examples; the suspects are not used.

        The facts are the number of steps, the share of the perturbed images over all steps that
        were shared and that were unlearned, and the accuracy before and after on held images.
        """
        learned, held = fit_and_held(clean, rng)
        tuned = copy.deepcopy(victim)
        unlearning = _Unlearning(self, tuned, copy.deepcopy(victim))
        fit(
            tuned,
            learned,
            self,
            rng,
            unlearning,
            name="sau",
            extra_state=unlearning,
            moving_statistics=False,
        )

        facts = {"steps": float(self.step_count(len(learned)))} | unlearning.shares
        facts |= accuracy_facts(victim, tuned, held)
        missed = (
            "sau: no perturbation changed what the victim says, so nothing was unlearned; raise"
            " radius or search_steps"
        )
        warning = lost("sau", facts, held) if facts["unlearned_share"] else missed
        return Defended(tuned, warning=warning, facts=facts)

    def search(self, tuned: Victim, victim: Victim, x_BCHW: Tensor, y_B: Tensor) -> "Examples":
        """Return perturbed images, 0..255 in float, toward those that both networks share."""
        with torch.no_grad():
            tuned_B = tuned(x_BCHW).argmax(1)
            victim_B = victim(x_BCHW).argmax(1)
        d_BCHW = torch.full(x_BCHW.shape, self.radius, device=x_BCHW.device)
        for _ in range(self.search_steps):
            d_BCHW.requires_grad_()
            worn_BCHW = x_BCHW.float() + 255 * d_BCHW
            tuned_BK = tuned(worn_BCHW).float()
            seen_BK = victim(worn_BCHW).float()
            tuned_fooled_B = tuned_BK.argmax(1) != tuned_B
            fooled_B = seen_BK.argmax(1) != victim_B
            shared_B = tuned_fooled_B & fooled_B & (tuned_BK.argmax(1) == seen_BK.argmax(1))
            if shared_B.all():
                break

            # An image that is fooled, or shared, has nothing more to gain from its term.
            loss_B = F.cross_entropy(tuned_BK, y_B, reduction="none") * ~tuned_fooled_B
            loss_B = loss_B + F.cross_entropy(seen_BK, y_B, reduction="none") * ~fooled_B
            apart_B = divergence(tuned_BK.softmax(1), seen_BK.softmax(1)) * ~shared_B
            aim = self.sharing * apart_B.sum() - self.fooling * loss_B.sum() / 2
            (slope_BCHW,) = torch.autograd.grad(aim, d_BCHW)
            d_BCHW = d_BCHW.detach() - self.search_step * slope_BCHW.sign()
            d_BCHW = d_BCHW.clamp(-self.radius, self.radius)

        worn_BCHW = x_BCHW.float() + 255 * d_BCHW.detach()
        with torch.no_grad():
            said_B = victim(worn_BCHW).argmax(1)
            shared_B = (tuned(worn_BCHW).argmax(1) == said_B) & (said_B != tuned_B)
        wrong_B = (said_B != y_B) & (said_B != victim_B)
        return Examples(worn_BCHW, said_B, wrong_B, shared_B & (said_B != victim_B))


@dataclass(frozen=True)
class Examples:
    """Perturbed images."""

    x_BCHW: Tensor
    """0..255 and beyond, in float."""
    said_B: Tensor
    """What the victim, as it was, says of them."""
    wrong_B: Tensor
    """Whether that is neither the true label nor what it says without the perturbation."""
    shared_B: Tensor
    """Whether both networks say it, and neither does without the perturbation."""


def divergence(p_BK: Tensor, q_BK: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of two distributions, in 0..ln 2, B."""
    p_BK = p_BK.clamp_min(TINY)
    q_BK = q_BK.clamp_min(TINY)
    middle_BK = ((p_BK + q_BK) / 2).log()
    return (p_BK * (p_BK.log() - middle_BK) + q_BK * (q_BK.log() - middle_BK)).sum(1) / 2


def log_of_the_rest(logits_BK: Tensor, label_B: Tensor) -> Tensor:
    """Return ln(1 - p) for the probability p of a label, B; exact also where p rounds to one."""
    rest_BK = logits_BK.scatter(1, label_B[:, None], -torch.inf)
    return rest_BK.logsumexp(1) - logits_BK.logsumexp(1)


class _Unlearning:
    """The losses of the network while it forgets what the victim, as it was, says."""

    def __init__(self, sau: Sau, tuned: Victim, victim: Victim) -> None:
        self.sau = sau
        self.tuned = tuned
        self.victim = victim.to(group.device()).requires_grad_(False).eval()
        self.images = 0
        self.shared = 0
        self.unlearned = 0

    def __call__(self, model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
        # The network itself, not the wrapped one: a search needs no gradients of weights.
        found = self.sau.search(self.tuned, self.victim, x_BCHW, y_B)
        counts = torch.tensor([len(y_B), int(found.shared_B.sum()), int(found.wrong_B.sum())])
        images, shared, unlearned = group.sum_over(counts.to(y_B.device)).tolist()
        self.images += images
        self.shared += shared
        self.unlearned += unlearned

        logits_BK = model(torch.cat([x_BCHW.float(), found.x_BCHW])).float()
        plain_BK, worn_BK = logits_BK.chunk(2)
        loss_B = self.sau.clean_weight * self.sau.losses(plain_BK, y_B, self._said(x_BCHW))
        if self.sau.adversarial_weight:
            hard_B = F.cross_entropy(worn_BK, y_B, reduction="none")
            loss_B = loss_B + self.sau.adversarial_weight * hard_B
        forget_B = -log_of_the_rest(worn_BK, found.said_B) * found.wrong_B
        return loss_B + self.sau.unlearning_weight * forget_B

    @torch.no_grad()
    def _said(self, x_BCHW: Tensor) -> Tensor | None:
        return self.victim(x_BCHW) if self.sau.targets == "victim" else None

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the perturbed images over all steps, as facts."""
        images = max(1, self.images)
        return {"shared_share": self.shared / images, "unlearned_share": self.unlearned / images}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs."""
        return {"images": self.images, "shared": self.shared, "unlearned": self.unlearned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self.images = state["images"]
        self.shared = state["shared"]
        self.unlearned = state["unlearned"]
