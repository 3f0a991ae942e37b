"""DeDe: a decoder reconstructs images from their embeddings; a trigger moves the embedding away.

Where a trigger has moved the embedding, the decoder reconstructs another image, and the error is
large. Hou, Li and Yao 2025, arXiv 2411.16154, sections on the decoder and on detection.
Differs: the threshold is a quantile of held-out auxiliary scores, where the authors take the median
of the pool, which assumes that half is poisoned (`pooled_median`); all images share the masks in
scoring (with the authors' 0.99 no patch of 64 is seen at all); the loss is the mean over hidden
pixels; pixels are normalised with the moments of the auxiliary images; the blocks are torch's,
whose attention has biases; weight decay is decoupled; images are shuffled. For images of 224 pixels
take patch 16 or 32 (authors: 4, or 3,136 tokens, and 32), or a smaller `side`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from raybd.detectors.dede.decoder import (
    MaskedDecoder,
    Normalisation,
    Target,
    hidden,
    normalised,
    visible_count,
)
from raybd.detectors.dede.painter import Painter, Region, outside, resized
from raybd.detectors.dede.thinning import least_crowded
from raybd.distributed import group
from raybd.metrics import thresholds
from raybd.training.inference import infer
from raybd.training.loop import fit
from raybd.training.recipe import Recipe
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.errors import UserError
from raybd.types.methods import StreamDetector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class DeDe(StreamDetector):
    """Score by the error of reconstructing an image from the victim's embedding of it."""

    intermediate_metrics: ClassVar[tuple[str, ...]] = ("mismatch_auroc",)
    pools: ClassVar[tuple[Pool, ...]] = ("train", "test")
    pool: Pool = "test"
    """Scores a stream of test inputs, or the training set."""
    mask_ratio: float = Field(0.9, gt=0, le=1, json_schema_extra=searched(low=0.5, high=0.99))
    """Share of patches that are hidden in training."""
    test_mask_ratio: float = Field(
        0.99, gt=0, le=1, json_schema_extra=searched(choices=[0.9, 0.95, 0.99, 1.0])
    )
    """Share of patches that are hidden in scoring; 1: the embedding alone."""
    masks: int = Field(1, ge=1)
    """Masks that the score is averaged over, if patches are seen."""
    side: int | None = Field(None, ge=4)
    """Side of the reconstructed images, in pixels; others are resized. Unset: as they are."""
    patch: int = Field(4, ge=1, json_schema_extra=searched(choices=[2, 4, 8]))
    """Side of a patch, in pixels; a divisor of the side."""
    encoder_depth: int = Field(12, ge=0, json_schema_extra=searched(choices=[0, 2, 6, 12]))
    """Blocks of the transformer over the seen patches; 0: linear."""
    decoder_depth: int = Field(4, ge=1, json_schema_extra=searched(choices=[2, 4, 6, 8]))
    """Blocks of the transformer that reconstructs."""
    width: int = Field(192, ge=8, json_schema_extra=searched(choices=[96, 128, 192, 256]))
    """Values of a token."""
    heads: int | None = Field(None, ge=1)
    """Heads of attention; unset: one for each 64 values."""
    lr: float = Field(1e-3, gt=0, json_schema_extra=searched(low=1e-4, high=3e-3, log=True))
    """Learning rate of Adam."""
    schedule: Literal["constant", "cosine"] = Field(
        "constant", json_schema_extra=searched(choices=["constant", "cosine"])
    )
    """Whether the learning rate falls, to zero at the last step."""
    warmup: float = Field(0.0, ge=0, lt=1, json_schema_extra=searched(choices=[0.0, 0.05]))
    """Share of the training over which the learning rate rises from zero."""
    weight_decay: float = Field(
        1e-6, ge=0, json_schema_extra=searched(low=1e-6, high=0.1, log=True)
    )
    """Decoupled decay."""
    epochs: int = Field(200, ge=1, json_schema_extra=searched(low=10, high=200, log=True))
    """Passes over the auxiliary images."""
    batch_size: int = Field(256, ge=1)
    """Images per step over all workers; the last, smaller batch of an epoch is dropped."""
    thin: float = Field(
        0.0, ge=0, le=0.5, json_schema_extra=searched(choices=[0.0, 0.05, 0.1, 0.2])
    )
    """Share of the auxiliary images that is left out, if some may be poisoned: those whose
    embeddings lie closest together."""
    mirror: bool = Field(False, json_schema_extra=searched(choices=[False, True]))
    """Whether the auxiliary images are mirrored too, which doubles them; helps if there are few."""
    precision: Literal["auto", "fp32"] = "auto"
    """auto: training in bf16 where the hardware has it; scores are always fp32."""
    embedding: Normalisation = Field(
        "raw", json_schema_extra=searched(choices=["raw", "std", "l2", "layernorm"])
    )
    """What the decoder is given: embeddings as they are, divided by one deviation, of length 1, or
    each standardised."""
    target: Target = Field(
        "pixels", json_schema_extra=searched(choices=["pixels", "normalised_patches", "low_passed"])
    )
    """What is reconstructed: the pixels, each patch up to its own mean and deviation, or the pixels
    without their details."""
    coarse: int = Field(8, ge=1)
    """`low_passed`: side that an image is reduced to."""
    measure: Literal["squares", "relative"] = Field(
        "squares", json_schema_extra=searched(choices=["squares", "relative"])
    )
    """The score: sum of squared errors, or that sum over its mean with the embeddings of other
    images."""
    strangers: int = Field(8, ge=1)
    """`relative`: auxiliary images whose embeddings are used as those of others."""
    skip: Region | None = None
    """Pixels that do not count: top, bottom, left, right, as in `x[top:bottom, left:right]`;
    patches that touch them are left out. For analysis: no defender knows where a trigger lies."""
    held_out: float = Field(0.1, gt=0, lt=1)
    """Share of the auxiliary images that the decoder is not trained on; at least two images."""
    threshold: Literal["quantile", "mean_multiple", "pooled_median"] = "quantile"
    """Quantile of held-out scores, a multiple of their mean, or the median of the pool (authors;
    right if half is poisoned)."""
    alpha: float = Field(0.05, gt=0, lt=1)
    """`quantile`: share of held-out scores above it."""
    multiple: float = Field(1.5, gt=0)
    """`mean_multiple`: threshold over the mean."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.attention_heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.attention_heads}")
        return self

    def refused(self, side: int) -> str | None:
        """Return why a sweep need not try this on images of this side, if so.

        Patches must fit, and training must see some of them.
        """
        side = self.side or side
        if side % self.patch:
            return f"side {side} is no multiple of patch {self.patch}"
        tokens = (side // self.patch) ** 2
        if self.mask_ratio < 1 and not visible_count(tokens, self.mask_ratio):
            return f"mask_ratio {self.mask_ratio:.3f} hides all of {tokens} patches, as 1 does"
        return None

    def learn(self, victim: Victim, clean: Split, rng: Generator) -> Callable[[Split], Suspicion]:
        """Train a decoder that scores any stream of inputs; labels are ignored.

        The auxiliary images may be poisoned, or of other classes. Raises UserError for too few.
        """
        order = torch.randperm(len(clean), generator=rng)
        # Two at least: the other embedding of a held-out image is that of its neighbour.
        held_out = max(2, round(self.held_out * len(clean)))
        if len(clean) < held_out + 2:
            raise UserError(
                f"dede: {len(clean)} auxiliary images",
                "Give it at least four, or lower held_out.",
                exit_code=1,
            )
        held = clean.x_NCHW[order[:held_out]]
        painter = self.painter(victim, clean.select(order[held_out:]), rng, held)
        own_M, other_M, unit_M = painter.mismatched(held)
        facts = {
            "mismatch_auroc": _auroc(own_M / unit_M, other_M / unit_M),
            "shuffled_over_true_error": float(other_M.mean() / own_M.mean()),
            "held_out_error": float(own_M.mean()) / painter.pixels,
        }
        return lambda suspects: self._suspicion(painter, suspects.x_NCHW, own_M / unit_M, facts)

    def _suspicion(
        self, painter: Painter, x_NCHW: Tensor, held_M: Tensor, facts: dict[str, float]
    ) -> Suspicion:
        maps_NT = painter.maps(x_NCHW, painter.embed(x_NCHW)) / painter.unit(x_NCHW)[:, None]
        score_N = maps_NT.sum(1)
        grid = painter.side // self.patch

        # Pictures show the four least and the four most suspicious images.
        # A stream may hold fewer than eight images; the remainder keeps the places valid.
        extremes = score_N.argsort()[torch.tensor([0, 1, 2, 3, -4, -3, -2, -1]) % len(score_N)]
        blind = (
            "the decoder hardly looks at the embedding: raise mask_ratio or epochs, "
            "or give it more auxiliary images"
        )
        return Suspicion(
            score_N,
            torch.tensor(self.cut(score_N, held_M)),
            # No defender knows where a trigger lies, or that half of the pool is poisoned.
            oracle=self.skip is not None or self.threshold == "pooled_median",
            # At 0.5, the embedding of another image serves the decoder as well as the right one.
            warning=blind if facts["mismatch_auroc"] < 0.6 else None,
            facts=facts,
            parts_NHW=maps_NT.view(-1, grid, grid),
            pictures={"rows": extremes, **painter.pictures(x_NCHW[extremes])},
        )

    def painter(
        self, victim: Victim, auxiliary: Split, rng: Generator, held_NCHW: Tensor | None = None
    ) -> Painter:
        """Train a decoder on the auxiliary images; their labels are ignored.

        The held-out images give the intermediate metrics.
        """
        height, width = auxiliary.x_NCHW.shape[-2:]
        side = self.side or min(height, width)
        if side % self.patch:
            raise UserError(
                f"dede: side {side} is no multiple of patch {self.patch}",
                "Choose another side or patch.",
                exit_code=1,
            )

        # Before mirroring, because an image and its mirror image would crowd each other.
        if self.thin:
            auxiliary = auxiliary.select(
                least_crowded(infer(victim, auxiliary.x_NCHW, victim.embed), self.thin)
            )
        if self.mirror:
            both_NCHW = torch.cat([auxiliary.x_NCHW, auxiliary.x_NCHW.flip(-1)])
            auxiliary = replace(auxiliary, x_NCHW=both_NCHW, y_N=auxiliary.y_N.repeat(2))
        # Once for all epochs: nothing is augmented, so that embeddings do not change.
        z_ND = infer(victim, auxiliary.x_NCHW, victim.embed)
        # A collapsed encoder has one embedding for all images, and no deviation to divide by.
        deviation = max(float(z_ND.std()), 1e-6)
        z_ND = normalised(z_ND, self.embedding, deviation)
        split = Split(resized(auxiliary.x_NCHW, side), auxiliary.y_N)

        model = self.decoder(split, z_ND.shape[1], side, rng)
        seen = visible_count(model.tokens, self.mask_ratio)
        batch = min(self.batch_size, len(split))
        near_ND = z_ND.to(group.device())

        def objective(net: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            # Every worker draws the masks of the whole batch and takes its share, so that their
            # streams stay equal and their number changes no mask.
            order_BT = torch.rand(batch, model.tokens, generator=rng)[
                group.shard(torch.arange(batch))
            ].argsort(1)
            seen_BK = order_BT[:, :seen].to(x_BCHW.device)
            guess_BTP: Tensor = net(x_BCHW, near_ND[rows_B], seen_BK)
            # Seen patches do not count: the decoder can copy them without the embedding.
            square_BT = torch.square(guess_BTP - model.wanted(x_BCHW)).mean(2)
            return (square_BT * hidden(seen_BK, model.tokens)).sum(1) / (model.tokens - seen)

        shown = visible_count(model.tokens, self.test_mask_ratio)
        counted_T = outside(self.skip, (height, width), side, self.patch)
        strangers_JD = z_ND[: self.strangers if self.measure == "relative" else 0]

        def with_masks(stream: Generator) -> Painter:
            # Without seen patches, all masks are the same.
            masks_MK = torch.rand(
                self.masks if shown else 1, model.tokens, generator=stream
            ).argsort(1)[:, :shown]
            return Painter(
                victim, model, self.embedding, deviation, side, masks_MK, counted_T, strangers_JD
            )

        def mismatch() -> dict[str, float]:
            assert held_NCHW is not None
            # A stream of its own: watching must not change the training, and the masks of all
            # epochs must be the same.
            own_M, other_M, unit_M = with_masks(Generator().manual_seed(0)).mismatched(held_NCHW)
            return {"mismatch_auroc": _auroc(own_M / unit_M, other_M / unit_M)}

        # Where nothing is seen, the first transformer does not run, and gets no gradients.
        frozen = () if seen else (model.encoder,)
        fit(
            model,
            split,
            self._recipe,
            rng,
            objective,
            "dede",
            frozen,
            intermediate_facts=None if held_NCHW is None else mismatch,
        )
        return with_masks(rng)

    @property
    def attention_heads(self) -> int:
        """The field `heads`, or one for each 64 values."""
        return self.heads or max(1, self.width // 64)

    @property
    def _recipe(self) -> Recipe:
        return Recipe(
            **self.model_dump(
                include={
                    "epochs",
                    "batch_size",
                    "lr",
                    "weight_decay",
                    "schedule",
                    "warmup",
                    "precision",
                }
            ),
            optimizer="adam",
            augment="none",
            channels_last=False,
        )

    def decoder(self, split: Split, values: int, side: int, rng: Generator) -> MaskedDecoder:
        """Return an untrained decoder for images like these and embeddings of so many values."""
        # A few thousand images give the moments; the floats of all would fill the memory.
        std_C, mean_C = torch.std_mean(split.x_NCHW[:5000].float().div(255), (0, 2, 3))
        # Layers draw from the global stream of torch, which must stay as it is.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=rng)))
            return MaskedDecoder(
                mean_C,
                # A channel that is the same in all images has no deviation to divide by.
                std_C.clamp_min(0.01),
                side=side,
                patch=self.patch,
                values=values,
                width=self.width,
                heads=self.attention_heads,
                encoder_depth=self.encoder_depth,
                decoder_depth=self.decoder_depth,
                target=self.target,
                coarse=self.coarse,
            )

    def cut(self, score_N: Tensor, held_M: Tensor) -> float:
        """Return the threshold from the scores of the pool and of held-out auxiliary images."""
        if self.threshold == "quantile":
            return thresholds.conformal(held_M, self.alpha)
        if self.threshold == "mean_multiple":
            return self.multiple * float(held_M.mean())
        return float(score_N.quantile(0.5))


def _auroc(negative_M: Tensor, positive_M: Tensor) -> float:
    """Return how well the second scores are above the first ones."""
    from sklearn.metrics import roc_auc_score

    is_positive = [0] * len(negative_M) + [1] * len(positive_M)
    return float(roc_auc_score(is_positive, torch.cat([negative_M, positive_M]).numpy()))
