"""Neural Cleanse: the target class of a backdoor is reached by a much smaller trigger than others.

Wang, Yao, Shan, Li, Viswanath, Zheng and Zhao 2019, IEEE Symposium on Security and Privacy,
sections on reverse engineering triggers and on outlier detection; schedules as in the authors'
code. BackdoorBench (Wu et al. 2022, arXiv 2206.12654) has other defaults, named at the fields.
Differs: the triggers of all classes are searched at once, each with its own weight and its own end;
a round is one pass over the images; the mask of a class is the smallest at the end of a round, not
the mean over it; the search of a class ends if its mask shrinks by less than a share in total, not
in each round, for many rounds; float32. A class that no trigger reaches has the norm of a mask over
the whole image. The index is positive for masks smaller than the median, negative for larger ones.
The deviation has a lower bound, because it is zero where most masks cover the whole image. An
index needs about eight classes to mean something. Small networks have classes that a small trigger
reaches without any backdoor: compare the index with that of the clean twin before trusting it.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.scanners._classes import SHOWN, anomaly_index, class_name, count_classes, too_few
from raybd.scanners.neural_cleanse.search import Searched, Triggers, TriggerSearch
from raybd.training.epochs import Epochs, Stream
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import Scanner
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class NeuralCleanse(Scanner):
    """Score by how far the smallest trigger of any class lies below the median of all classes."""

    kind: ClassVar[str] = "neural_cleanse"
    """What errors call it."""
    images: int = Field(1000, ge=1)
    """Clean images, drawn at random; all if there are fewer. Their labels are ignored."""
    batch_size: int = Field(32, ge=1)
    """Images per step over all workers; each wears the trigger of every class (BackdoorBench:
    256)."""
    rounds: int = Field(1000, ge=1, json_schema_extra=searched(low=50, high=1000, log=True))
    """Passes over the images, at most (BackdoorBench: 80)."""
    lr: float = Field(0.1, gt=0, json_schema_extra=searched(low=0.02, high=0.5, log=True))
    """Learning rate of Adam."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Decay of Adam's two means of the gradient."""
    reached: float = Field(0.99, gt=0, lt=1, json_schema_extra=searched(low=0.9, high=0.995))
    """Share of the images that a trigger has to send to its class (BackdoorBench: 0.98)."""
    free_start: bool = True
    """Whether size costs nothing until a class was reached for `patience` rounds in a row
    (BackdoorBench: no)."""
    weight: float = Field(1e-3, gt=0)
    """Initial weight of the mask's L1 norm in the loss."""
    factor: float = Field(1.5, gt=1)
    """Factor by which the weight grows after rounds that reach the class (BackdoorBench, and the
    authors' script for traffic signs: 2)."""
    fall: float = Field(1.5, gt=0)
    """The weight falls by the factor to this power after rounds that do not reach the class."""
    patience: int = Field(5, ge=1)
    """Rounds in a row after which the weight changes."""
    stop_after: int = Field(25, ge=1)
    """The search of a class ends after so many rounds without a smaller mask, once its weight has
    risen and fallen."""
    gain: float = Field(0.01, ge=0, lt=1)
    """Share by which a mask has to shrink to count as smaller."""
    threshold: float = Field(2.0, gt=0, json_schema_extra=searched(low=1.5, high=4.0))
    """Anomaly index above which a class, and with it the model, is flagged."""
    least_deviation: float = Field(0.01, gt=0)
    """Lower bound of the median absolute deviation of the norms, as a share of their median."""
    least_classes: int = Field(5, ge=3)
    """Classes without which there is no index: the median would be one of the outliers."""

    def cannot(self, encoder: nn.Module, num_classes: int) -> str | None:
        """Return why there is no index: there are too few classes."""
        return too_few(self.kind, num_classes, self.least_classes)

    def scan(self, victim: Victim, clean: Split, rng: Generator) -> Suspicion:
        """Score the victim by the largest anomaly index of its classes.

        The facts are `index[k]` and `norm[k]` of each class k, the class with the smallest mask,
        the share of the image under that mask, and the images that were run forward and backward.
        The tensors are the triggers of all classes: `mask` (K x H x W), `pattern`
        (K x C x H x W), both in 0..1, and `norm`, `index` and `flagged` (K). Workers share the
        images of a step. Raises Infeasible for too few classes, or without a head.
        """
        if not len(clean):
            raise UserError(f"{self.kind}: no clean images", "Set `clean`.", exit_code=1)
        images = clean.select(torch.randperm(len(clean), generator=rng)[: self.images])
        num_classes = count_classes(self.kind, victim, images.x_NCHW[:1], self.least_classes)
        search = self.searched(victim.to(group.device()).eval(), num_classes, images, rng)
        return self._verdict(search, images.x_NCHW[:1])

    def searched(self, victim: Victim, num_classes: int, images: Split, rng: Generator) -> Searched:
        """Search until each class has ended, or for all rounds."""
        search = TriggerSearch(self, torch.arange(num_classes), images.x_NCHW.shape[1:], rng)
        stream = Stream(images.x_NCHW, images.y_N, self.batch_size)
        loop = Epochs(
            "neural_cleanse", self.rounds, stream, rng, {"search": search}, hint="Lower lr."
        )
        for _ in loop.remaining():
            if search.ended_K.all():
                break
            for batch in loop.batches():
                search.step(victim, batch.x_B, batch.size)
            loss = search.end_round()
            open_classes = int((~search.ended_K).sum())
            loop.end_epoch(loss=loss, lr=self.lr, open_classes=open_classes)
        return search

    def _verdict(self, search: Searched, x_1CHW: Tensor) -> Suspicion:
        found = search.found()
        index_K = anomaly_index(found.norm_K, self.least_deviation)
        flagged_K = index_K > self.threshold
        smallest = int(found.norm_K.argmin())
        facts = {
            **{f"index[{k}]": float(index) for k, index in enumerate(index_K)},
            **{f"norm[{k}]": float(norm) for k, norm in enumerate(found.norm_K)},
            "smallest_class": float(smallest),
            "smallest_share": float(found.norm_K[smallest]) / found.mask_KHW[smallest].numel(),
            "passes": float(search.passes),
        }
        return Suspicion(
            index_K.max()[None],
            torch.tensor([self.threshold]),
            warning=self._warning(search),
            facts=facts,
            pictures=_pictures(found, flagged_K, x_1CHW),
            tensors={
                "mask": found.mask_KHW,
                "pattern": found.pattern_KCHW,
                "norm": found.norm_K,
                "index": index_K,
                "flagged": flagged_K,
            },
        )

    def _warning(self, search: Searched) -> str | None:
        """Say if the median is a mask that reaches nothing."""
        missed = int(search.missed_K.sum())
        if 2 * missed < len(search.missed_K):
            return None
        return (
            f"no trigger reaches {missed} of {len(search.missed_K)} classes: raise rounds, or "
            "lower reached"
        )


def _pictures(found: Triggers, flagged_K: Tensor, x_1CHW: Tensor) -> dict[str, Tensor]:
    """Return mask, pattern and an image with both, of the classes with the smallest masks."""
    stamped_KCHW = found.stamp(x_1CHW)[:, 0]
    mask_KCHW = 255 * found.mask_KHW[:, None].expand_as(stamped_KCHW)
    parts_K3CHW = torch.stack([mask_KCHW, 255 * found.pattern_KCHW, stamped_KCHW], dim=1)
    shown = found.norm_K.argsort(stable=True)[:SHOWN].sort().values
    return {
        class_name(k, bool(flagged_K[k])): parts_K3CHW[k].round().to(torch.uint8)
        for k in shown.tolist()
    }
