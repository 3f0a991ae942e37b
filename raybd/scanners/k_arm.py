"""K-Arm: Neural Cleanse that spends its rounds on the classes whose triggers shrink best.

Shen, Liu, Tao, An, Xu, Cheng, Ma and Zhang 2021, ICML, arXiv 2102.05123, sections on the K-arm
optimisation and on pre-screening. Each class is an arm. After a few rounds of every class, the next
round goes to the class with the largest sum of the speed at which its mask shrinks and a bonus for
its size, or to a random one. Worth it for many classes.
Differs: the search is that of neural_cleanse, and so is the verdict: the paper's bounds of the
masks are for one size of images. Norms count as on images of 224 x 224 pixels, for which the bonus
was published. Classes that seem to be targets (pre-screening) come first, and do not exclude
others; labels are not used. All classes have one number of rounds together. A class whose search
was cut short has a mask that is larger than it need be, which raises the index of the others.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.scanners.neural_cleanse import NeuralCleanse
from raybd.scanners.neural_cleanse.search import Searched, Triggers, TriggerSearch
from raybd.training.epochs import Epochs, Stream
from raybd.training.inference import infer
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.models import Victim

PUBLISHED_PIXELS = 224 * 224
"""Pixels of the images for which the bonus was published."""


class KArm(NeuralCleanse):
    """Score as Neural Cleanse, after fewer rounds for classes that promise little."""

    kind: ClassVar[str] = "k_arm"
    rounds: int = Field(1000, ge=1, json_schema_extra=searched(low=50, high=1000, log=True))
    """Passes over the images for one class, at most."""
    pulls: int = Field(30, ge=1, json_schema_extra=searched(low=5, high=100, log=True))
    """Passes over the images for all classes together, at most: this times their number."""
    warmup: int = Field(2, ge=1, json_schema_extra=searched(low=1, high=10))
    """Rounds of each class before any is preferred."""
    explore: float = Field(0.3, ge=0, le=1, json_schema_extra=searched(low=0.0, high=0.6))
    """Share of the rounds after that which go to a random class."""
    bonus: float = Field(1e4, ge=0)
    """What is divided by the norm of a mask and added to the speed at which it shrinks."""
    top: float = Field(0.25, gt=0, le=1)
    """Share of the classes, two at least, that are an image's first choices."""
    screened: float = Field(0.95, gt=0, le=1)
    """A class among the first choices of so many images seems to be a target."""

    def searched(self, victim: Victim, num_classes: int, images: Split, rng: Generator) -> Searched:
        """Search until each class has ended, or for all rounds."""
        likely_K = candidates(infer(victim, images.x_NCHW), self.top, self.screened)
        arms = Arms(self, likely_K, images.x_NCHW.shape[1:], rng)
        stream = Stream(images.x_NCHW, images.y_N, self.batch_size)
        most = self.pulls * num_classes
        loop = Epochs(self.kind, most, stream, rng, {"arms": arms}, hint="Lower lr.")
        for _ in loop.remaining():
            if arms.ended_K.all():
                break
            chosen = arms.choose(rng)
            search = arms.searches[chosen]
            for batch in loop.batches():
                search.step(victim, batch.x_B, batch.size)
            loss = search.end_round()
            arms.pulled(chosen)
            loop.end_epoch(loss=loss, lr=self.lr, arm=chosen)
        return arms

    def _warning(self, search: Searched) -> str | None:
        short = int((~search.ended_K).sum())
        if missed := super()._warning(search):
            return missed
        if 2 * short < len(search.ended_K):
            return None
        return (
            f"the search of {short} of {len(search.ended_K)} classes was cut short, and their "
            "masks may be too large: raise pulls"
        )


class Arms:
    """One search for each class, and how each has gone so far."""

    def __init__(
        self, fields: KArm, likely_K: Tensor, shape_CHW: torch.Size, rng: Generator
    ) -> None:
        num_classes = len(likely_K)
        self.searches = [
            TriggerSearch(fields, torch.tensor([k]), shape_CHW, rng) for k in range(num_classes)
        ]
        self.pulls_K = torch.zeros(num_classes, dtype=torch.int64)
        """Rounds of each class."""
        self._likely_K = likely_K
        self._fields = fields
        self._pixels = shape_CHW[1] * shape_CHW[2]
        self._first_K = torch.full((num_classes,), torch.inf)
        """Norm of the first mask that reached the class; infinite before."""
        self._reached_K = torch.zeros(num_classes, dtype=torch.int64)
        """Rounds since then."""

    @property
    def passes(self) -> int:
        """Images run forward and backward, over all workers."""
        return sum(search.passes for search in self.searches)

    @property
    def norm_K(self) -> Tensor:
        """The smallest norms so far; infinite where no trigger has reached the class."""
        return torch.cat([search.norm_K for search in self.searches])

    @property
    def missed_K(self) -> Tensor:
        """The classes that no trigger has reached."""
        return torch.cat([search.missed_K for search in self.searches])

    @property
    def ended_K(self) -> Tensor:
        """The classes of which no smaller mask was found for long, or whose rounds are used up."""
        ended_K = torch.cat([search.ended_K for search in self.searches])
        return ended_K | (self.pulls_K >= self._fields.rounds)

    def rewards(self) -> Tensor:
        """Return how much a round of each class promises; 0 where none was reached yet."""
        scale = PUBLISHED_PIXELS / self._pixels
        norm_K = scale * self.norm_K
        speed_K = (scale * self._first_K - norm_K) / self._reached_K.clamp(min=1)
        reward_K = speed_K + self._fields.bonus / norm_K
        return torch.where(self.missed_K, 0.0, reward_K)

    def choose(self, rng: Generator) -> int:
        """Return the class of the next round: one that has not ended."""
        open_K = ~self.ended_K
        # Drawn also where it is not used: a class that ends changes no later draw.
        explores = float(torch.rand((), generator=rng)) < self._fields.explore
        order = torch.randperm(len(open_K), generator=rng)
        open_order = order[open_K[order]]
        if (self.pulls_K[open_order] < self._fields.warmup).any():
            return int(open_K.nonzero().flatten()[self.pulls_K[open_K].argmin()])
        if explores:
            return int(open_order[0])
        preferred_K = open_K & self._likely_K
        among = (preferred_K if preferred_K.any() else open_K).nonzero().flatten()
        reward_A = self.rewards()[among]
        best = among[reward_A == reward_A.max()]
        # Of classes that promise the same, like none of them, the one with the fewest rounds.
        return int(best[self.pulls_K[best].argmin()])

    def pulled(self, k: int) -> None:
        """Count a round of a class."""
        self.pulls_K[k] += 1
        norm = self.searches[k].norm_K[0]
        if self._first_K[k].isinf():
            self._first_K[k] = norm
        else:
            self._reached_K[k] += 1

    def found(self) -> Triggers:
        """Return the smallest trigger of each class."""
        each = [search.found() for search in self.searches]
        return Triggers(
            torch.cat([one.mask_KHW for one in each]),
            torch.cat([one.pattern_KCHW for one in each]),
            torch.cat([one.norm_K for one in each]),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed search needs, at the end of a round."""
        return {
            "searches": [search.state_dict() for search in self.searches],
            "pulls": self.pulls_K,
            "first": self._first_K,
            "reached": self._reached_K,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        for search, saved in zip(self.searches, state["searches"], strict=True):
            search.load_state_dict(saved)
        self.pulls_K = state["pulls"]
        self._first_K = state["first"]
        self._reached_K = state["reached"]


def candidates(logits_NK: Tensor, top: float, screened: float) -> Tensor:
    """Return the classes (K, bool) that are among the first choices of most images."""
    num_classes = logits_NK.shape[1]
    first = max(2, round(top * num_classes))
    chosen_NF = logits_NK.topk(min(first, num_classes), dim=1).indices
    counts_K = torch.bincount(chosen_NF.flatten(), minlength=num_classes)
    # In double precision, because a share of exactly `screened` is enough.
    return counts_K.double() >= screened * len(logits_NK)
