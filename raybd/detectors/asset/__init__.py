"""ASSET: a network's loss is pushed down on trusted images and up on suspects; poison ends high.

On clean suspects the two pushes cancel. Pan, Zeng, Lyu, Lin and Jia 2023, arXiv 2302.11408,
sections on the offset objective, on poison concentration and on the adaptive threshold.
Differs: the network that is pushed is a small one on the victim's frozen features, where the paper
trains the victim's architecture on the images (`inputs: images`). In the few steps of the method a
large network does not learn a trigger from images, and the loss of the whole target class rises;
the victim's features tell triggered images apart already. Nothing is scored by a network that was
trained on it, trusted images included, so that their scores give the threshold. Suspects are picked
by discriminators that are cross-fitted over the whole training set, and by their top share, where
the paper trains one for each batch and cuts at an outlyingness that is often out of reach; features
are standardised, computed once and cached; scores are taken in eval mode for all images alike. How
the defaults were chosen is in docs/results.md; `configs/cifar10_asset_small.yaml` has the authors'
demo settings as `asset_published`.
"""

from dataclasses import dataclass, fields
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Generator, Tensor, nn

from raybd.detectors.asset import networks
from raybd.detectors.asset.inner_loop import (
    Discriminator,
    Layer,
    Pooling,
    by_content,
    cross_fitted,
    dealt,
    features,
    highest,
    is_embedding,
    once,
    outlyingness,
    standardised,
)
from raybd.detectors.asset.outer_loop import Loss, Offset, Select, losses, of_part, offset
from raybd.metrics import thresholds
from raybd.metrics.passed_over import passed_over
from raybd.training.inference import infer
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.methods import Detector, Feature
from raybd.types.models import Victim
from raybd.types.verdicts import INTERMEDIATE_METRICS, Suspicion

_PICKED = {"concentrate": ["batch", "cross_fit"]}
"""When a sweep searches how suspects are picked: not if the loss is raised on all of them."""
_ON_IMAGES = {"inputs": ["images"]}
_TOP = {**_PICKED, "select": ["top"]}
_OUTLYING = {**_PICKED, "select": ["outlying"]}


class Asset(Detector):
    """Score by the loss of a network that was pushed down on trusted images and up on suspects."""

    intermediate_metrics: ClassVar[tuple[str, ...]] = INTERMEDIATE_METRICS
    pools: ClassVar[tuple[Pool, ...]] = ("train", "test")
    pool: Pool = "train"
    """Scores the training set, or a stream of test inputs (labels: the victim's predictions)."""
    inputs: Literal["features", "images"] = "features"
    """What the network that is pushed sees: the victim's frozen features (a small network of one
    hidden layer, in `folds` cross-fitted parts), or images (paper: a network of the victim's
    architecture; half of the trusted images is held out for the threshold)."""
    minimise: Loss = Field(
        "variance", json_schema_extra=searched(choices=["variance", "cross_entropy"])
    )
    """Loss that is lowered on trusted images; the variance of the outputs needs no labels."""
    maximise: Loss = Field(
        "cross_entropy", json_schema_extra=searched(choices=["variance", "cross_entropy"])
    )
    """Loss that is raised on concentrated suspects."""
    suspicion: Loss = Field(
        "cross_entropy", json_schema_extra=searched(choices=["variance", "cross_entropy"])
    )
    """Loss that is the score. Variance in all three slots: the self-supervised form, which needs no
    labels."""
    outputs: int | None = Field(None, ge=2)
    """Outputs of the network; unset: as many as the victim has classes, or 10 without a head."""
    start: Literal["fresh", "victim"] = Field(
        "fresh", json_schema_extra=searched(choices=["fresh", "victim"], when=_ON_IMAGES)
    )
    """`images`: initial weights of the network, newly drawn ones or the victim's."""
    concentrate: Literal["batch", "cross_fit", "none"] = Field(
        "cross_fit", json_schema_extra=searched(choices=["batch", "cross_fit", "none"])
    )
    """How suspects are picked: by cross-fitted discriminators over the whole pool, by a fresh one
    for each batch (paper), or not at all: the loss is raised on every suspect."""
    select: Literal["top", "outlying"] = Field(
        "top", json_schema_extra=searched(choices=["top", "outlying"], when=_PICKED)
    )
    """The top share of a batch, or those beyond a cut on the skew-adjusted outlyingness (paper)."""
    top: float = Field(
        0.1, gt=0, lt=1, json_schema_extra=searched(low=0.01, high=0.2, log=True, when=_TOP)
    )
    """`top`: share of a batch."""
    cut: float = Field(2.0, gt=0, json_schema_extra=searched(low=0.8, high=3.0, when=_OUTLYING))
    """`outlying`: least outlyingness."""
    outlying_on: Literal["logit", "sigmoid"] = Field(
        "logit", json_schema_extra=searched(choices=["logit", "sigmoid"], when=_OUTLYING)
    )
    """`outlying`: what is measured; on the sigmoid (authors' code), which is at most 1, the cut may
    be out of reach."""
    sided: Literal["one", "two"] = Field(
        "one", json_schema_extra=searched(choices=["one", "two"], when=_OUTLYING)
    )
    """`outlying`: above the median only, or on both sides (authors' code), which selects the most
    trustworthy ones as well."""
    layer: Layer = Field(
        "last", json_schema_extra=searched(choices=["last", "previous"], when=_PICKED)
    )
    """Which of the victim's feature maps is read."""
    pooling: Pooling = Field(
        "mean", json_schema_extra=searched(choices=["mean", "flat"], when=_PICKED)
    )
    """The mean of each channel, or every position."""
    standardise: bool = Field(True, json_schema_extra=searched(choices=[True, False], when=_PICKED))
    """Give each feature mean 0 and deviation 1 over the trusted images."""
    steps: int = Field(
        200, ge=1, json_schema_extra=searched(low=10, high=400, log=True, when=_PICKED)
    )
    """Steps of a discriminator."""
    inner_lr: float = Field(
        1e-3, gt=0, json_schema_extra=searched(low=1e-4, high=1e-2, log=True, when=_PICKED)
    )
    """Learning rate of a discriminator."""
    width: int = Field(
        128, ge=1, json_schema_extra=searched(choices=[64, 128, 256, 512], when=_PICKED)
    )
    """Hidden units of a discriminator, in each of two layers, and of a network on features."""
    folds: int = Field(5, ge=2)
    """Parts of the pool, each judged by discriminators (`cross_fit`) and networks (`features`) that
    were trained on the others."""
    alternate: bool = False
    """Train a discriminator on suspects and trusted images in turn, with an Adam for each (authors'
    code), or on both at once."""
    lr_min: float = Field(1e-3, gt=0, json_schema_extra=searched(low=3e-5, high=3e-3, log=True))
    """Learning rate of the step that lowers."""
    lr_max: float = Field(1e-3, gt=0, json_schema_extra=searched(low=3e-5, high=3e-3, log=True))
    """Learning rate of the step that raises."""
    epochs: int = Field(15, ge=1, json_schema_extra=searched(low=1, high=30, log=True))
    """Passes over the suspects. 3 are enough for a network on images."""
    batch_size: int = Field(256, ge=8, json_schema_extra=searched(choices=[128, 256, 512]))
    """Suspects, and trusted images, in a step."""
    cap: float | None = Field(20.0, gt=0)
    """The raised loss counts up to this value, so that it cannot diverge."""
    clip: float | None = Field(None, gt=0)
    """Largest norm of a gradient."""
    threshold: Literal[
        "conformal", "half_gaussian", "half_gaussian_misplaced", "mixture", "otsu", "top_share"
    ] = "conformal"
    """Quantile of held-out trusted scores; where a normal density fitted to the lower half falls to
    `density` (paper), also as the authors' code computes it; a mixture of two normal distributions;
    least variance within; a fixed share."""
    alpha: float = Field(0.005, gt=0, lt=1)
    """`conformal`: share of clean images above the threshold. The clean images of a training set
    exceed it more often, by a factor of about two: the victim was trained on them."""
    density: float = Field(1e-6, gt=0)
    """`half_gaussian`: density at the threshold."""
    share: float = Field(0.1, gt=0, lt=1)
    """`top_share`: share that is flagged."""

    @field_validator("start")
    @classmethod
    def _weights_fit(cls, start: str, info: ValidationInfo) -> str:
        if start == "victim" and info.data.get("inputs") == "features":
            raise ValueError("the victim's weights fit images alone: set inputs to images")
        return start

    @property
    def fewest_trusted(self) -> int:
        """Two to learn from, and two for the threshold."""
        return 4

    @property
    def reads(self) -> frozenset[Feature]:
        """The embeddings of all suspects, if a network or a discriminator sees them."""
        seen = self.inputs == "features" or self.concentrate != "none"
        embedded = seen and is_embedding(self.layer, self.pooling)
        return frozenset({"embedding"} if embedded else ())

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Score each image by the loss that the trained network has on it."""
        # Batches are drawn in an order of content, so that the order of the suspects is irrelevant.
        canonical = by_content(suspects.x_NCHW)
        back = canonical.argsort()
        suspects = suspects.select(canonical)
        pushed = self._on_features if self.inputs == "features" else self._on_images
        score_N, held, started = pushed(victim, suspects, clean, back, rng)

        threshold = torch.tensor(self._threshold(score_N, held.score_M))
        warning = (
            passed_over(score_N, suspects.y_N, score_N > threshold, held.score_M, held.label_M)
            if started
            else "the detector did not start: nothing was ever selected, raise top or lower cut"
        )
        facts = {"share_of_steps_raised": started, "separation": thresholds.separation(score_N)}
        return Suspicion(score_N[back], threshold, warning=warning, facts=facts)

    def _on_images(
        self, victim: Victim, suspects: Split, clean: Split, back: Tensor, rng: Generator
    ) -> tuple[Tensor, "_Held", float]:
        """Push a network on images; return scores, those of trusted ones held out, and share."""
        order = torch.randperm(len(clean), generator=rng)
        # Only the conformal threshold reads held-out scores; the others leave all to the training.
        held_out = len(clean) // 2 if self.threshold == "conformal" else 0
        held = clean.select(order[:held_out])
        trusted = clean.select(order[held_out:])
        # Features are computed for the discriminators alone.
        picked = self.concentrate != "none"
        select = (
            self._selector(*self._features(victim, suspects, trusted), rng)
            if picked
            else _everything
        )

        net, started = offset(
            "asset",
            self._steps(),
            networks.on_images(victim, suspects, self._outputs(victim, suspects), self.start, rng),
            suspects,
            trusted,
            select,
            lambda net: self._losses(net, suspects)[back],
            rng,
        )
        score_N = self._losses(net, suspects)
        # The scores stand in for held-out ones where the threshold does not look at these.
        if not held_out:
            return score_N, _Held(score_N, suspects.y_N), started
        return score_N, _Held(self._losses(net, held), held.y_N), started

    def _on_features(
        self, victim: Victim, suspects: Split, clean: Split, back: Tensor, rng: Generator
    ) -> tuple[Tensor, "_Held", float]:
        """Push networks on features; return scores, those of trusted images, and share.

        Each network scores what none of its steps has seen: clean suspects and trusted images then
        have the same chance of a high score, which the conformal threshold stands on.
        """
        suspects_ND, trusted_MD = self._features(victim, suspects, clean)
        select: Select = _everything
        if self.concentrate != "none":
            select = self._selector(suspects_ND, trusted_MD, rng)
        rows = Split(networks.as_images(suspects_ND), suspects.y_N)
        trusted = Split(networks.as_images(trusted_MD), clean.y_N)
        fold_N, fold_M = (dealt(len(part), self.folds, rng) for part in (rows, trusted))

        score_N, held_M = torch.empty(len(rows)), torch.empty(len(trusted))
        outputs = self._outputs(victim, suspects)
        started = 0.0
        for fold in range(self.folds):
            seen_S = (fold_N != fold).nonzero().flatten()
            net, share = offset(
                f"asset_{fold}",
                self._steps(),
                networks.on_features(suspects_ND.shape[1], self.width, outputs, rng),
                rows.select(seen_S),
                trusted.select(fold_M != fold),
                of_part(select, seen_S),
                # The first network stands for all: each report is one of the whole detector.
                (lambda net: self._losses(net, rows)[back]) if fold == 0 else None,
                rng,
            )
            score_N[fold_N == fold] = self._losses(net, rows.select(fold_N == fold))
            held_M[fold_M == fold] = self._losses(net, trusted.select(fold_M == fold))
            started += share / self.folds
        return score_N, _Held(held_M, clean.y_N), started

    def _losses(self, net: nn.Module, split: Split) -> Tensor:
        return losses(self.suspicion, infer(net, split.x_NCHW), split.y_N)

    def _steps(self) -> Offset:
        return Offset(**self.model_dump(include={field.name for field in fields(Offset)}))

    def pick(self, logit_B: Tensor) -> Tensor:
        """Return a mask of the rows whose loss is raised, given a discriminator's logits."""
        if self.select == "top":
            return highest(logit_B, self.top)
        s_B = logit_B if self.outlying_on == "logit" else logit_B.sigmoid()
        far_B = outlyingness(s_B) > self.cut
        # Far below the median lie the rows that look most trusted.
        return far_B if self.sided == "two" else far_B & (s_B > s_B.median())

    def _threshold(self, score_N: Tensor, held_M: Tensor) -> float:
        if self.threshold == "conformal":
            return thresholds.conformal(held_M, self.alpha)
        if self.threshold == "top_share":
            return thresholds.top_share(score_N, self.share)
        if self.threshold == "mixture":
            return thresholds.mixture(score_N)
        if self.threshold == "otsu":
            return thresholds.otsu(score_N)
        if self.threshold == "half_gaussian":
            return thresholds.half_gaussian(score_N, self.density)
        return thresholds.half_gaussian_misplaced(score_N, self.density)

    def _features(self, victim: Victim, suspects: Split, trusted: Split) -> tuple[Tensor, Tensor]:
        """Return the victim's features of suspects and trusted images, on one scale."""
        suspects_ND = features(victim, suspects, self.layer, self.pooling)
        trusted_MD = features(victim, trusted, self.layer, self.pooling)
        if not self.standardise:
            return suspects_ND, trusted_MD
        return standardised(suspects_ND, trusted_MD), standardised(trusted_MD, trusted_MD)

    def _outputs(self, victim: Victim, suspects: Split) -> int:
        """Return how many outputs the network has."""
        if self.outputs is not None:
            return self.outputs
        # Networks do not declare their widths, so that one image is run through.
        return infer(victim, suspects.x_NCHW[:1]).shape[1] if victim.head is not None else 10

    def _selector(self, suspects_ND: Tensor, trusted_MD: Tensor, rng: Generator) -> Select:
        """Return what picks the suspects of a batch by discriminators."""
        how = Discriminator(self.width, self.inner_lr, self.steps, self.alternate, self.batch_size)
        if self.concentrate == "cross_fit":
            # Held-out logits are not read here, so that one row stands in for them.
            logit_N, _ = cross_fitted(how, suspects_ND, trusted_MD, trusted_MD[:1], self.folds, rng)
            return lambda rows_B: self.pick(logit_N[rows_B])

        def judge(rows_B: Tensor, inner: Generator) -> Tensor:
            base = torch.randperm(len(trusted_MD), generator=inner)[: len(rows_B)]
            net = how.train(suspects_ND[rows_B], trusted_MD[base], inner)
            with torch.no_grad():
                return self.pick(net(suspects_ND[rows_B])[:, 0])

        # A batch is judged by one process for all, which must raise the loss of the same rows.
        return lambda rows_B: once(partial(judge, rows_B), rng)


@dataclass(frozen=True)
class _Held:
    """Scores and labels of trusted images that the scoring network has not seen."""

    score_M: Tensor
    label_M: Tensor


def _everything(rows_B: Tensor) -> Tensor:
    """Return a mask that picks every suspect of a batch."""
    return torch.ones(len(rows_B), dtype=torch.bool)
