"""SPECTRE: after robust whitening, poison stands out by its quantum entropy.

Hayase, Kong, Somani and Oh 2021, arXiv 2104.11315, algorithms for robust covariance, the score by
quantum entropy, the number of dimensions, and the target class.
Differs: the number of poisoned images is an assumed share of each class, where the authors know
class and number; at most half as many components as a class has images; `whiten: trusted` whitens
by the covariance of trusted images within classes, as `spectral` does, from the center of the
class's trusted images (all that its suspects then vary by too much is suspicious), and takes the
threshold from trusted images that were held out; a class is a target only if its entropy stands out
from that of the others. As published, the score needs poison that is the smaller part of its class.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.detectors._anomaly import anomaly_index, index_facts, too_few_classes
from raybd.detectors.spectre.entropy import quantum_entropy
from raybd.detectors.spectre.robust import best_dimensions
from raybd.metrics import thresholds
from raybd.training.inference import embeddings
from raybd.training.whitening import whitening
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.methods import Detector, Feature
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Spectre(Detector):
    """Score by the quantum entropy of the whitened embedding within its class."""

    pools: ClassVar[tuple[Pool, ...]] = ("train",)
    pool: Literal["train"] = "train"
    """Scores the training set."""
    whiten: Literal["robust", "trusted"] = "robust"
    """By a robust covariance of the class's own suspects (paper), or by that of trusted images."""
    assumed_rate: float = Field(0.1, gt=0, le=0.33)
    """`robust`: share of each class that is taken to be poison, an assumption. 1.5 times as many
    are flagged in the target class, and twice as many at most play no part in the covariance."""
    sharpness: float = Field(4.0, gt=0, json_schema_extra=searched(low=1.0, high=10.0))
    """How much the directions of most variance count (the paper's alpha)."""
    components: int = Field(100, ge=2)
    """`robust`: principal components that are kept, at most."""
    threshold: float = Field(7.389, gt=0, json_schema_extra=searched(low=2.0, high=20.0, log=True))
    """Anomaly index of the mean entropy above which the class with the largest one is flagged:
    e^2, as SCAn has it."""
    alpha: float = Field(0.01, gt=0, lt=1)
    """`trusted`: share of held-out trusted images above the threshold."""

    @property
    def reads(self) -> frozenset[Feature]:
        """The embeddings of all suspects."""
        return frozenset({"embedding"})

    @property
    def fewest_trusted(self) -> int:
        """Two for the covariance, and two for the threshold, if it reads any."""
        return 4 if self.whiten == "trusted" else 1

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Score each training image within the class that it is labelled as.

        The facts are the anomaly index of each class.
        """
        z_ND = embeddings(victim, suspects).double()
        label_K = suspects.y_N.unique()
        if self.whiten == "robust":
            found = [self._robust(z_ND[suspects.y_N == label]) for label in label_K]
        else:
            order = torch.randperm(len(clean), generator=rng)
            found = self._trusted(z_ND, suspects.y_N, label_K, victim, clean.select(order))

        index_K = anomaly_index(torch.tensor([one.mean for one in found]))
        # At most one class is a target.
        target = int(index_K.argmax()) if index_K.max() > self.threshold else None
        score_N = torch.zeros(len(suspects), dtype=torch.float64)
        threshold_N = torch.zeros(len(suspects), dtype=torch.float64)
        for place, (label, one) in enumerate(zip(label_K, found, strict=True)):
            mine = suspects.y_N == label
            score_N[mine] = one.score_M
            # No score lies above the highest one.
            threshold_N[mine] = one.threshold if place == target else one.score_M.max()
        warning = too_few_classes("spectre", len(label_K))
        facts = index_facts(label_K, index_K)
        return Suspicion(score_N.float(), threshold_N.float(), warning=warning, facts=facts)

    def _robust(self, z_MD: Tensor) -> "_Class":
        """Return the entropies of one class, and the threshold that flags its assumed share."""
        score_M, mean = best_dimensions(z_MD, self.assumed_rate, self.components, self.sharpness)
        threshold = thresholds.top_share(score_M, 1.5 * self.assumed_rate)
        return _Class(score_M, mean, threshold)

    def _trusted(
        self, z_ND: Tensor, y_N: Tensor, label_K: Tensor, victim: Victim, clean: Split
    ) -> "list[_Class]":
        """Return the entropies of each class, and the threshold that held-out images give."""
        trusted_MD = embeddings(victim, clean).double()
        # The first half gives centers and covariance, the second half the thresholds.
        half = len(trusted_MD) // 2
        fit_MD, held_MD = trusted_MD[:half], trusted_MD[half:]
        fit_y_M, held_y_M = clean.y_N[:half], clean.y_N[half:]
        seen = set(fit_y_M.tolist())
        # A class without trusted images is centered on its own mean.
        center_of = {
            k: (fit_MD[fit_y_M == k] if k in seen else z_ND[y_N == k]).mean(0)
            for k in sorted({*seen, *label_K.tolist()})
        }
        white_DD = whitening(torch.cat([fit_MD[fit_y_M == k] - center_of[k] for k in seen]))
        # All classes share one covariance, so that held-out images of all classes tell what is
        # usual along the directions of each.
        held_MD = torch.cat([(held_MD[held_y_M == k] - center_of[k]) @ white_DD for k in center_of])

        found = []
        for label in label_K.tolist():
            y_MD = (z_ND[y_N == label] - center_of[label]) @ white_DD
            weight_DD = quantum_entropy(y_MD.T @ y_MD / len(y_MD), self.sharpness)
            score_M = ((y_MD @ weight_DD) * y_MD).sum(1)
            held_M = ((held_MD @ weight_DD) * held_MD).sum(1)
            threshold = thresholds.conformal(held_M, self.alpha)
            found.append(_Class(score_M, float(score_M.mean()), threshold))
        return found


@dataclass(frozen=True)
class _Class:
    """The suspects of one class."""

    score_M: Tensor
    """Their entropies."""
    mean: float
    """What classes are compared by."""
    threshold: float
    """The threshold of the class, if it is a target."""
