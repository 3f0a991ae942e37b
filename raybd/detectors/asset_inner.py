"""ASSET's inner discriminator alone: how well features can be told from those of trusted images.

Pan, Zeng, Lyu, Lin and Jia 2023, arXiv 2302.11408, section on poison concentration.
Differs: one discriminator for each fifth of the training set, trained on the rest, instead of one
for each batch; no second network. The natural ablation of `asset`, and a very cheap detector.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator

from raybd.detectors.asset.inner_loop import (
    Discriminator,
    Layer,
    Pooling,
    by_content,
    cross_fitted,
    features,
    is_embedding,
    standardised,
)
from raybd.metrics import thresholds
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.methods import Detector, Feature
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class AssetInner(Detector):
    """Score by the logit of a cross-fitted discriminator between suspects and trusted images."""

    pools: ClassVar[tuple[Pool, ...]] = ("train", "test")
    pool: Pool = "train"
    """Scores the training set, or a stream of test inputs."""
    layer: Layer = "last"
    """Which of the victim's feature maps the discriminator sees."""
    pooling: Pooling = "mean"
    """The mean of each channel, or every position."""
    folds: int = Field(5, ge=2)
    """Parts of the pool, each judged by a discriminator that was trained on the others."""
    steps: int = Field(200, ge=1, json_schema_extra=searched(low=10, high=1000, log=True))
    """Steps of a discriminator."""
    lr: float = Field(1e-3, gt=0, json_schema_extra=searched(low=1e-4, high=1e-2, log=True))
    """Learning rate of a discriminator."""
    width: int = Field(128, ge=1, json_schema_extra=searched(choices=[64, 128, 256, 512]))
    """Hidden units of a discriminator, in each of two layers."""
    batch_size: int = Field(256, ge=8)
    """Suspects, and trusted images, in a step."""
    alpha: float = Field(0.01, gt=0, lt=1)
    """Share of clean images above the threshold, taken from the held-out half of the trusted."""

    @property
    def reads(self) -> frozenset[Feature]:
        """The embeddings of all suspects, if the features are the embeddings."""
        return frozenset({"embedding"} if is_embedding(self.layer, self.pooling) else ())

    @property
    def fewest_trusted(self) -> int:
        """Two for the discriminators, whose spread is known then, and two for the threshold."""
        return 4

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Score each image by its logit; labels are ignored."""
        # Half of the trusted images is kept from the discriminators: the threshold comes from
        # images that none was trained on.
        order = torch.randperm(len(clean), generator=rng)
        half = len(clean) // 2
        # Folds and batches follow the content, so that the order of the suspects plays no part.
        canonical = by_content(suspects.x_NCHW)
        parts = (suspects.select(canonical), clean.select(order[half:]), clean.select(order[:half]))
        suspects_ND, trusted_MD, held_LD = (
            features(victim, part, self.layer, self.pooling) for part in parts
        )

        how = Discriminator(self.width, self.lr, self.steps, alternate=False, batch=self.batch_size)
        score_N, held_L = cross_fitted(
            how,
            standardised(suspects_ND, trusted_MD),
            standardised(trusted_MD, trusted_MD),
            standardised(held_LD, trusted_MD),
            self.folds,
            rng,
        )
        threshold = torch.tensor(thresholds.conformal(held_L, self.alpha))
        # Back in the order in which the suspects came.
        return Suspicion(score_N[canonical.argsort()], threshold)
