"""AGPD: in a target class, gradients with respect to activations have two directions.

Yuan, Zhang, Wei, Liu and Wu 2025, arXiv 2312.06230, sections on the dispersion of gradient
directions, on target classes, and on the filter within a class; constants as in BackdoorBench (Wu
et al. 2022, arXiv 2206.12654).
A gradient is that of the logit of an image's label with respect to what a convolution puts out,
averaged over positions. Directions of a class are compared with that of its trusted images and
with that of the suspect which is least like them.
Differs: a graded score (index of the class times how near an image is to the suspected direction);
one pass gives the gradients at all layers; a filter of fewer rounds than a window takes the window
that there is; by default trusted images that gave no direction end the filter, and a class is
flagged only if they avoid what it found, which lets the threshold be lower (see the fields);
`fallback_gap` is off by default. `tau` has no published default.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.detectors._anomaly import anomaly_index, index_facts, too_few_classes
from raybd.detectors.agpd.directions import Directions, cosine, gap, towards
from raybd.detectors.agpd.filter import Stop, filtered
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.errors import Infeasible
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class AGPD(Detector):
    """Score by how far the gradient of an image points away from that of trusted images."""

    pools: ClassVar[tuple[Pool, ...]] = ("train",)
    pool: Literal["train"] = "train"
    """Scores the training set."""
    per_class: int = Field(10, ge=1, json_schema_extra=searched(choices=[5, 10, 50, 100]))
    """Trusted images of a class that give its direction, at most (and at most half of them), drawn
    from those that the victim classifies correctly. The others check what the filter found."""
    threshold: float = Field(2.718, gt=0, json_schema_extra=searched(low=2.0, high=7.389))
    """Anomaly index above which a class may be a target: e. The paper and BackdoorBench have e^2
    (7.389), which no target class reaches where few images were trained on. Chosen on badnets and
    blended at rate 0.1 on 4,000 images of CIFAR-10, and badnets on digits (small_cnn)."""
    significance: float = Field(0.01, gt=0, lt=1)
    """A class is flagged only if the probability of so few trusted images among what the filter
    found is at most this."""
    fallback_gap: float | None = Field(None, gt=0)
    """Where no class is a target: classes with a larger dispersion than this, in the three layers
    before the last, are. BackdoorBench has 0.3; it flags classes of clean victims."""
    tau: float = Field(0.05, ge=0, lt=1, json_schema_extra=searched(low=0.01, high=0.2))
    """Closeness up to which an image joins the suspects in a round of the filter, 0..1."""
    stop: Literal["trusted", "window"] = "trusted"
    """When the filter ends: before more than `alpha` of the trusted images that gave no direction
    would join, or once it is at rest (paper). In a class of 1,000 images the histograms that tell
    rest are mostly noise."""
    alpha: float = Field(0.05, gt=0, lt=1, json_schema_extra=searched(low=0.01, high=0.1))
    """`stop: trusted`: share of these trusted images that may be as close as the suspects. Chosen
    with `threshold`."""
    window: int = Field(10, ge=1)
    """`stop: window`: rounds in which the filter must be at rest."""
    batch_size: int = Field(250, ge=1)
    """Images that are run forward and backward at once."""

    def cannot(self, encoder: nn.Module, num_classes: int) -> str | None:
        """Return why there are no activations to look at: there is no convolution."""
        if any(isinstance(module, nn.Conv2d) for module in encoder.modules()):
            return None
        return "agpd needs convolutions"

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Score each training image within the class that it is labelled as.

        The facts are the anomaly index of each class at the chosen layer, that layer's place among
        the convolutions, and the number of target classes. Raises Infeasible without a head or
        convolutions.
        """
        if victim.head is None:
            raise Infeasible("agpd needs a classifier: an encoder has no logits")
        if reason := self.cannot(victim.encoder, 0):
            raise Infeasible(reason)
        directions = Directions(victim, suspects.x_NCHW[:2], self.batch_size)
        order = torch.randperm(len(clean), generator=rng)
        trusted = directions.correct(clean.select(order))

        label_K = suspects.y_N.unique()
        classes = [
            self._class(directions, suspects, trusted, clean, int(label)) for label in label_K
        ]
        gap_KL = torch.stack([one.gap_L for one in classes])
        layer, index_K, target_K = self.targets(gap_KL)

        stop = Stop(self.stop, self.alpha, self.window)
        score_N = torch.zeros(len(suspects))
        threshold_N = torch.zeros(len(suspects))
        targets = 0
        for one, index, target in zip(classes, index_K, target_K, strict=True):
            away_M = one.away_ML[:, layer]
            inside_M = torch.zeros(len(away_M), dtype=torch.bool)
            if target and one.trusted_LD is not None:
                g_MD = directions.of(suspects.select(one.row_M), one.label)[layer]
                held_HD = directions.of(one.held, one.label)[layer]
                found = filtered(g_MD, held_HD, one.trusted_LD[layer], self.tau, stop)
                away_M = found.closeness_N
                avoided = found.chance <= self.significance
                inside_M = found.inside_N & avoided
                targets += avoided
            score_M = (index.clamp_min(0) * away_M).float()
            score_N[one.row_M] = score_M
            threshold_N[one.row_M] = _threshold(score_M, inside_M)
        facts = {
            **index_facts(label_K, index_K),
            "layer": float(layer),
            "targets": float(targets),
        }
        warning = too_few_classes("agpd", len(label_K))
        return Suspicion(score_N, threshold_N, warning=warning, facts=facts)

    def targets(self, gap_KL: Tensor) -> tuple[int, Tensor, Tensor]:
        """Return the layer at which a class stands out most, each class's index there, and whether
        it is a target."""
        index_KL = torch.stack([anomaly_index(gap_K) for gap_K in gap_KL.unbind(1)], 1)
        layer = int(index_KL.amax(0).argmax())
        target_K = index_KL[:, layer] > self.threshold
        before_last = range(max(0, gap_KL.shape[1] - 4), gap_KL.shape[1] - 1)
        if self.fallback_gap is not None and not target_K.any() and before_last:
            widest = max(before_last, key=lambda place: float(gap_KL[:, place].max()))
            if (gap_KL[:, widest] > self.fallback_gap).any():
                return widest, index_KL[:, widest], gap_KL[:, widest] > self.fallback_gap
        return layer, index_KL[:, layer], target_K

    def _class(
        self, directions: Directions, suspects: Split, trusted: Split, clean: Split, label: int
    ) -> "_Class":
        """Look at the suspects of one class at all layers."""
        row_M = (suspects.y_N == label).nonzero().flatten()
        known = trusted.select(trusted.y_N == label)
        # Where the victim classifies none of them correctly, there is nothing better than all.
        known = known if len(known) else clean.select(clean.y_N == label)
        layers = len(directions.widths)
        if not len(known):
            nothing_ML = torch.zeros((len(row_M), layers), dtype=torch.float64)
            return _Class(label, row_M, nothing_ML[:1].sum(0), nothing_ML, None, known)

        # At least one gives the direction; of two or more, at least half are held out.
        used = min(self.per_class, max(1, len(known) // 2))
        place = torch.arange(len(known))
        usual, held = known.select(place < used), known.select(place >= used)
        trusted_LD = [g_MD.mean(0) for g_MD in directions.of(usual, label)]
        gaps = []
        away = []
        for g_MD, c_D in zip(directions.of(suspects.select(row_M), label), trusted_LD, strict=True):
            to_trusted_M = cosine(g_MD, c_D)
            to_farthest_M = cosine(g_MD, g_MD[to_trusted_M.argmin()])
            gaps.append(gap(to_trusted_M, to_farthest_M))
            away.append(1 - towards(to_trusted_M, to_farthest_M))
        return _Class(label, row_M, torch.stack(gaps), torch.stack(away, 1), trusted_LD, held)


@dataclass(frozen=True)
class _Class:
    """The suspects of one class."""

    label: int
    row_M: Tensor
    """Which suspects they are."""
    gap_L: Tensor
    """Their dispersion at each layer."""
    away_ML: Tensor
    """How close each is to the suspect least like trusted images, 0..1, 1 is closest."""
    trusted_LD: list[Tensor] | None
    """The direction of trusted images at each layer; None without any."""
    held: Split
    """Trusted images that gave no direction."""


def _threshold(score_M: Tensor, inside_M: Tensor) -> Tensor:
    """Return the threshold of a class that flags all images of a set."""
    # No score lies above the highest one.
    if not inside_M.any():
        return score_M.max()
    # The next float below the least of them: flagged is what lies above.
    return torch.nextafter(score_M[inside_M].min(), torch.tensor(-torch.inf))
