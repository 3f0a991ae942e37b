"""Beatrix: a trigger excites features together that are not excited together in its class.

Ma, Wang, Sun, Xue, Wen and Xiang 2023, arXiv 2209.11715, sections on Gram matrices of higher orders
and on deviations from them; 30 images of a class, ten median deviations and the 95 % quantile as in
the authors' code.
Differs: one input at a time, without the kernel test for target classes; the map is the encoder's
last one that has more than one position (tokens of a transformer), where the authors take the input
of the last stage; activations are divided by the largest clean one and powers taken in double
precision, which changes no deviation but prevents overflow; where a bound is near zero, deviations
are divided by a share of the typical entry (`floor`) instead of 1e-6, or features that are silent
in a class would outweigh all others; the threshold comes from clean images outside of the
statistics, for all groups together. Encoders without a head are grouped by clusters of clean
embeddings instead of classes.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.detectors.beatrix.statistics import Ranges, ranges
from raybd.distributed import group
from raybd.metrics import thresholds
from raybd.training import layers
from raybd.training.inference import infer
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.errors import UserError
from raybd.types.methods import StreamDetector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

IMAGES_AT_ONCE = 100
"""Images whose Gram matrices are in memory at the same time: they are large."""


class Beatrix(StreamDetector):
    """Score by how far products of features leave their range on clean images of the same group."""

    pools: ClassVar[tuple[Pool, ...]] = ("train", "test")
    pool: Pool = "test"
    """Scores a stream of test inputs, or the training set."""
    layer: str | None = None
    """The module of the encoder whose output is read (`layer3`); unset: the last with more than one
    position."""
    groups: Literal["auto", "predicted", "clusters"] = "auto"
    """What an image is compared with: clean images of the class that the victim predicts, or of the
    cluster of its embedding. auto: classes if there is a head, else clusters."""
    clusters: int = Field(10, ge=1, json_schema_extra=searched(choices=[1, 5, 10, 20]))
    """`clusters`: how many; at most as many as there are clean images."""
    per_group: int = Field(30, ge=2)
    """Clean images of a group that give its statistics, at most."""
    fewest: int = Field(5, ge=2)
    """A group with fewer clean images than this uses the statistics of all groups."""
    orders: int = Field(8, ge=1, le=16, json_schema_extra=searched(choices=[1, 4, 8]))
    """Powers of the features, from 1 to this."""
    reach: float = Field(10.0, gt=0, json_schema_extra=searched(low=3.0, high=20.0))
    """Half the width of the range, in median absolute deviations."""
    floor: float = Field(0.1, gt=0)
    """Least divisor of a deviation, as a share of the mean median entry of its order."""
    channels: int = Field(256, ge=2)
    """Channels that are read, drawn at random; all if there are fewer. Time and memory grow with
    the square."""
    fpr: float = Field(0.05, gt=0, lt=1)
    """Share of clean inputs above the threshold."""

    @property
    def fewest_trusted(self) -> int:
        """Two for each half of the statistics."""
        return 4

    def learn(self, victim: Victim, clean: Split, rng: Generator) -> Callable[[Split], Suspicion]:
        """Take statistics from half of the clean images, the threshold from the others.

        Returns what scores a stream by its mean deviation over entries and orders; labels are
        ignored. Raises UserError for fewer than four clean images, and if the victim has no such
        layer.
        """
        # Statistics and threshold come from two halves, and a median of one image has no spread.
        if len(clean) < 4:
            raise UserError(
                f"beatrix: {len(clean)} clean images", "Give it at least four.", exit_code=1
            )
        order = torch.randperm(len(clean), generator=rng)
        x_MCHW = clean.x_NCHW[order[: len(clean) // 2]]
        held_MCHW = clean.x_NCHW[order[len(clean) // 2 :]]
        group_of = self._grouping(victim, x_MCHW, rng)
        # Two images are enough to see the shape of each output.
        layer = self.layer_of(victim, x_MCHW[:2])

        def features(x_BCHW: Tensor) -> Tensor:
            # The head is not run: its output is not read.
            return features_and(victim, layer, victim.embed, x_BCHW)[0]

        f_MCT = infer(victim, x_MCHW, features)

        drawn_C = torch.randperm(f_MCT.shape[1], generator=rng)[: self.channels].sort().values
        group_M = infer(victim, x_MCHW, group_of).long()
        usual = self.statistics(f_MCT[:, drawn_C].to(group.device()), group_M)

        # Features and group come from the same pass, which halves the cost of a stream.
        def deviation(x_BCHW: Tensor) -> Tensor:
            f_BCT, group_B = features_and(victim, layer, group_of, x_BCHW)
            return usual.deviation(f_BCT[:, drawn_C.to(x_BCHW.device)], group_B)

        held_M = infer(victim, held_MCHW, deviation, batch_size=IMAGES_AT_ONCE)
        # Images outside of the statistics: those that gave the ranges lie within them too often.
        threshold = torch.tensor(thresholds.conformal(held_M, self.fpr))
        return lambda suspects: Suspicion(
            infer(victim, suspects.x_NCHW, deviation, batch_size=IMAGES_AT_ONCE), threshold
        )

    def layer_of(self, victim: Victim, x_BCHW: Tensor) -> str:
        """Return the name of the module that is read: the field, or the encoder's last map.

        Raises UserError if there is none.
        """
        if self.layer is None:
            found = layers.last_map(victim, x_BCHW)
            if found is None:
                raise UserError(
                    "beatrix: the encoder has no feature map with more than one position",
                    "Name a `layer`.",
                    exit_code=1,
                )
            return found
        if self.layer not in dict(victim.encoder.named_modules()):
            raise UserError(
                f"beatrix: the encoder has no module {self.layer!r}",
                "Leave `layer` unset.",
                exit_code=1,
            )
        return self.layer

    def statistics(self, f_MCT: Tensor, group_M: Tensor) -> Ranges:
        """Return the ranges of clean features, by group."""
        return ranges(
            f_MCT, group_M, self.orders, self.reach, self.floor, self.per_group, self.fewest
        )

    def _grouping(
        self, victim: Victim, x_MCHW: Tensor, rng: Generator
    ) -> Callable[[Tensor], Tensor]:
        """Return x_BCHW -> the group of each image."""
        if self.groups == "predicted" or (self.groups == "auto" and victim.head is not None):
            return lambda x_BCHW: victim(x_BCHW).argmax(1)

        # Imported late: classifiers do without it, and a dry run does not load scikit-learn.
        from sklearn.cluster import KMeans

        z_MD = F.normalize(infer(victim, x_MCHW, victim.embed), dim=1)
        means = KMeans(
            min(self.clusters, len(z_MD)),
            n_init=5,
            random_state=int(torch.randint(2**31, (1,), generator=rng)),
        )
        # Fitted by one worker, because threads may round the centers differently.
        centers_KD = group.broadcast(
            lambda: torch.from_numpy(means.fit(z_MD.numpy()).cluster_centers_)
        ).to(group.device())
        return lambda x_BCHW: torch.cdist(
            F.normalize(victim.embed(x_BCHW), dim=1), centers_KD
        ).argmin(1)


def features_and(
    victim: Victim, layer: str, run: Callable[[Tensor], Tensor], x_BCHW: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what a module puts out while `run` sees images, B x C x T, and what `run` returns."""
    with layers.reading(victim, [layer]) as seen:
        returned = run(x_BCHW)
    return layers.by_position(seen[layer]), returned
