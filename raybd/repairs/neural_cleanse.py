"""Neural Cleanse's unlearning: train on trusted images that wear the triggers that a scan found.

Wang, Yao, Shan, Li, Viswanath, Zheng and Zhao 2019, IEEE Symposium on Security and Privacy, section
on patching by unlearning; recipe of BackdoorBench (Wu et al. 2022, arXiv 2206.12654), defense NC:
100 epochs, learning rate 0.01, batches of 256, on 5 % of the clean training images.
Differs: images are augmented as by the victim's trainer; a part of the trusted images is held out,
to see what the repair costs and whether the triggers still work; each flagged class has images of
its own, where BackdoorBench stamps the same ones for every class. Where no class is flagged, the
victim is handed out as it is, with a warning.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.repairs._clean_accuracy import accuracy_facts, lost
from raybd.repairs._tuning import Tuning
from raybd.training.held_out import fit_and_held
from raybd.training.inference import infer
from raybd.training.loop import fit
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.methods import ScannedRepair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended

STILL_WORKS = 0.5
"""Share of the held-out images above which a trigger that was to be unlearned still works."""


class NeuralCleanse(Tuning, ScannedRepair):
    """Fine-tune on trusted images, of which some wear the recovered triggers and keep their labels.

    It stands on a scan of `neural_cleanse`, whose fields an entry may set: scan: {rounds: 80}.
    """

    scanner: ClassVar[str] = "neural_cleanse"

    batch_size: int = Field(256, ge=1)
    """Images per step over all workers."""
    share: float = Field(0.2, gt=0, le=1, json_schema_extra=searched(low=0.1, high=0.5))
    """Share of the images trained on that wears the trigger of one flagged class. Classes share no
    image: of many, each has less."""
    force: Literal["smallest"] | None = None
    """smallest: where no class is flagged, unlearn the trigger of the class with the smallest
    mask."""

    def repair_with(
        self,
        found: Mapping[str, Tensor],
        victim: Victim,
        suspects: Split,
        clean: Split,
        rng: Generator,
    ) -> Defended:
        """Return a copy that has unlearned the triggers; the suspects are not used.

        `found` has `mask`, `pattern`, `norm`, `index` and `flagged` of each class. The facts are
        the number of unlearned triggers, how often they work on held-out images before and after,
        and the accuracy on these images. A warning says that nothing was unlearned, that a trigger
        still works, or that much accuracy was lost.
        """
        classes = self._classes(found)
        if not classes:
            return Defended(
                copy.deepcopy(victim), warning=_not_triggered(found), facts={"unlearned": 0.0}
            )
        learned, held = fit_and_held(clean, rng)
        # A copy, because the facts compare it with the victim as it was.
        unlearned = fit(
            copy.deepcopy(victim),
            self.stamped(learned, found, classes, rng),
            self.resolved(),
            rng,
            # Of the images without the trigger: of those with it, the victim says the class.
            self.objective(victim, said_NK=self.said(victim, learned.x_NCHW)),
            name="neural_cleanse",
        )

        # A few trusted images may leave none to hold out.
        seen = held if len(held) else learned
        after = triggers_work(unlearned, seen, found, classes)
        facts = {
            "unlearned": float(len(classes)),
            "triggers_work_before": triggers_work(victim, seen, found, classes),
            "triggers_work_after": after,
            **accuracy_facts(victim, unlearned, seen),
        }
        works = f"the recovered triggers still work on {after:.2f} of the held-out images"
        warning = works if after > STILL_WORKS else lost("neural_cleanse", facts, seen)
        return Defended(unlearned, warning=warning, facts=facts)

    def stamped(
        self, learned: Split, found: Mapping[str, Tensor], classes: Sequence[int], rng: Generator
    ) -> Split:
        """Return the images to train on: some wear the trigger of each class, all as labelled."""
        x_NCHW = learned.x_NCHW.clone()
        order = torch.randperm(len(learned), generator=rng)
        each = min(round(self.share * len(learned)), len(learned) // len(classes))
        for k, rows in zip(classes, order.split(max(each, 1)), strict=False):
            x_NCHW[rows] = stamp(x_NCHW[rows], found["mask"][k], found["pattern"][k])
        return replace(learned, x_NCHW=x_NCHW)

    def _classes(self, found: Mapping[str, Tensor]) -> list[int]:
        """Return the classes whose triggers are unlearned."""
        if not found:
            return []
        flagged: list[int] = found["flagged"].nonzero().flatten().tolist()
        if flagged or self.force is None:
            return flagged
        return [int(found["norm"].argmin())]


def stamp(x_NCHW: Tensor, mask_HW: Tensor, pattern_CHW: Tensor) -> Tensor:
    """Return copies of the images with a recovered trigger, uint8."""
    worn_NCHW = (1 - mask_HW) * x_NCHW.float() + mask_HW * 255 * pattern_CHW
    return worn_NCHW.round().clamp(0, 255).to(torch.uint8)


def triggers_work(
    victim: Victim, seen: Split, found: Mapping[str, Tensor], classes: Sequence[int]
) -> float:
    """Return the share of images of other classes that each trigger sends to its class, averaged.

    0..1; NaN is left out: a class may be the only one.
    """
    shares = []
    for k in classes:
        others_NCHW = seen.x_NCHW[seen.y_N != k]
        if len(others_NCHW):
            worn_NCHW = stamp(others_NCHW, found["mask"][k], found["pattern"][k])
            shares.append(float((infer(victim, worn_NCHW).argmax(1) == k).double().mean()))
    return sum(shares) / len(shares) if shares else 0.0


def _not_triggered(found: Mapping[str, Tensor]) -> str:
    if not found:
        return "not triggered: there is no scan to stand on"
    return (
        f"not triggered: the scan flags no class (largest anomaly index {found['index'].max():.2f})"
        ", and the victim is unchanged; force: smallest unlearns the smallest trigger"
    )
