"""ASSET's two steps on the frozen features of the victim: a small network, pushed down and up.

Pan, Zeng, Lyu, Lin and Jia 2023, arXiv 2302.11408, sections on the offset objective and on poison
concentration; their transfer learning with a frozen encoder.
Differs: the network that is pushed sees the victim's features and not the images. A network that
starts from images has to learn the trigger in the few steps of the method; a large one then raises
the loss of the whole target class. The victim's features tell triggered images apart already.
Suspects are picked by cross-fitted discriminators, as in `asset`.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.detectors.asset.inner_loop import (
    Discriminator,
    Layer,
    Pooling,
    by_content,
    cross_fitted,
    features,
    highest,
    is_embedding,
    standardised,
)
from raybd.detectors.asset.outer_loop import Offset, losses, offset
from raybd.metrics import thresholds
from raybd.training.inference import infer
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.methods import Detector, Feature
from raybd.types.models import Victim
from raybd.types.verdicts import INTERMEDIATE_METRICS, Suspicion


class AssetFeatures(Detector):
    """Score by the loss of a small network on features, lowered on trusted images only."""

    intermediate_metrics: ClassVar[tuple[str, ...]] = INTERMEDIATE_METRICS
    pools: ClassVar[tuple[Pool, ...]] = ("train", "test")
    pool: Pool = "train"
    """Scores the training set, or a stream of test inputs (labels: the victim's predictions)."""
    layer: Layer = "last"
    """Which of the victim's feature maps both networks see."""
    pooling: Pooling = "mean"
    """The mean of each channel, or every position."""
    top: float = Field(0.1, gt=0, lt=1, json_schema_extra=searched(low=0.01, high=0.2, log=True))
    """Share of a batch whose loss is raised: the most suspicious ones by a discriminator."""
    width: int = Field(128, ge=1, json_schema_extra=searched(choices=[64, 128, 256, 512]))
    """Hidden units of the network that is pushed, and of a discriminator."""
    lr: float = Field(1e-3, gt=0, json_schema_extra=searched(low=1e-4, high=1e-2, log=True))
    """Learning rate of both steps."""
    epochs: int = Field(15, ge=1, json_schema_extra=searched(low=3, high=50, log=True))
    """Passes over the suspects."""
    batch_size: int = Field(256, ge=8)
    """Suspects, and trusted images, in a step."""
    cap: float = Field(20.0, gt=0)
    """The raised loss counts up to this value, so that it cannot diverge."""
    steps: int = Field(200, ge=1, json_schema_extra=searched(low=10, high=1000, log=True))
    """Steps of a discriminator."""
    inner_lr: float = Field(1e-3, gt=0, json_schema_extra=searched(low=1e-4, high=1e-2, log=True))
    """Learning rate of a discriminator."""
    folds: int = Field(5, ge=2)
    """Parts of the pool, each judged by a discriminator trained on the others."""
    alpha: float = Field(0.01, gt=0, lt=1)
    """Share of clean images above the threshold, taken from the held-out half of the trusted."""

    @property
    def reads(self) -> frozenset[Feature]:
        """The embeddings of all suspects, if the features are the embeddings."""
        return frozenset({"embedding"} if is_embedding(self.layer, self.pooling) else ())

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Score each image by the cross-entropy of its label after the two steps."""
        # Batches are drawn in an order of content, so that the order of the suspects is irrelevant.
        canonical = by_content(suspects.x_NCHW)
        order = torch.randperm(len(clean), generator=rng)
        half = len(clean) // 2
        parts = (suspects.select(canonical), clean.select(order[half:]), clean.select(order[:half]))
        suspects_ND, trusted_MD, held_LD = (
            features(victim, part, self.layer, self.pooling) for part in parts
        )
        # The moments of the trusted features as they were, for all three.
        suspects_ND, trusted_MD, held_LD = (
            standardised(rows_ND, trusted_MD) for rows_ND in (suspects_ND, trusted_MD, held_LD)
        )
        rows, trusted, held = (
            Split(_as_images(rows_ND), part.y_N)
            for rows_ND, part in zip((suspects_ND, trusted_MD, held_LD), parts, strict=True)
        )

        how = Discriminator(self.width, self.inner_lr, self.steps, False, self.batch_size)
        logit_N, _ = cross_fitted(how, suspects_ND, trusted_MD, trusted_MD[:1], self.folds, rng)
        back = canonical.argsort()

        def scored(net: nn.Module, split: Split) -> Tensor:
            return losses("cross_entropy", infer(net, split.x_NCHW), split.y_N)

        net, _ = offset(
            self._offset(),
            self._network(suspects_ND.shape[1], 1 + int(max(rows.y_N.max(), clean.y_N.max())), rng),
            rows,
            trusted,
            lambda rows_B: highest(logit_N[rows_B], self.top),
            lambda net: scored(net, rows)[back],
            rng,
        )
        score_N = scored(net, rows)
        threshold = torch.tensor(thresholds.conformal(scored(net, held), self.alpha))
        facts = {"separation": thresholds.separation(score_N)}
        # Back in the order in which the suspects came.
        return Suspicion(score_N[back], threshold, facts=facts)

    def _offset(self) -> Offset:
        return Offset(
            minimise="variance",
            maximise="cross_entropy",
            lr_min=self.lr,
            lr_max=self.lr,
            epochs=self.epochs,
            batch_size=self.batch_size,
            cap=self.cap,
            clip=None,
        )

    def _network(self, features_wide: int, classes: int, rng: Generator) -> nn.Module:
        """Return a fresh network: features as images of one pixel -> logits."""
        # Layers draw from the global stream of torch, which must stay as it is.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=rng)))
            return nn.Sequential(
                nn.Flatten(),
                nn.Linear(features_wide, self.width),
                nn.ReLU(),
                nn.Linear(self.width, classes),
            )


def _as_images(rows_ND: Tensor) -> Tensor:
    """Return rows as images of one pixel, the shape that the two steps work on."""
    return rows_ND[:, :, None, None]
