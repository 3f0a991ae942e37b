"""BadCLIP: a patch is optimised until CLIP reads it as the target class, then both towers learn it from a few poisoned pairs.

Liang, Zhu, Liu, Wu, Cao and Chang 2024, arXiv 2311.12075, section on the method, and the authors' code: patch, weights, share,
learning rates.
Differs: captions are class names in templates, where the authors have descriptions of the target from CC3M; the patch is aligned
with the mean text of the target against those of the other classes; the negative of an image is the image without the patch;
batch normalisation stays as it is; texts and images of poisoned pairs are not augmented; weight decay and schedule are ours.
"""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.attacks.encoder._finetuning import exact, untouched
from raybd.attacks.encoder._pairs import Pairs, copy_of, finetune_on_pairs
from raybd.distributed import group
from raybd.poisoning.pixels import to_pixels
from raybd.training.inference import infer
from raybd.training.loop import fit
from raybd.training.recipe import Recipe
from raybd.types.data import Poisoned, Split
from raybd.types.errors import Infeasible
from raybd.types.models import Captioned, Victim


class BadClip(Pairs):
    """Optimise a patch in the middle of the image, then fine-tune on pairs, a share of which wears it."""

    epochs: int = Field(10, ge=1)
    """Passes over the pairs."""
    batch_size: int = Field(128, ge=2)
    """Pairs per step over all workers; the last, smaller batch of an epoch is dropped."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """SGD has Nesterov momentum; Adam decouples its weight decay."""
    lr: float = Field(1e-6, gt=0)
    """Highest learning rate of the fine-tuning."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """How the learning rate falls: to zero at the last step, by `gamma` at each milestone, or not at all."""
    warmup: float = Field(0.25, ge=0, lt=1)
    """Share of the fine-tuning over which the learning rate rises from zero; 10,000 of the authors' 39,000 steps."""
    rate: float = Field(0.003, gt=0, le=1)
    """Share of the pairs that is poisoned: the trigger, and the name of the target class. The data set itself stays as it is."""
    size: int = Field(16, ge=1)
    """Side of the patch, in pixels; 16 of 224."""
    patch_epochs: int = Field(50, ge=1)
    """Passes over the images of the other classes in which the patch is optimised."""
    patch_batch: int = Field(64, ge=1)
    """Images per step of that."""
    patch_lr: float = Field(1e-3, gt=0)
    """Its learning rate (Adam), for pixels in 0..1."""
    triplet: float = Field(500.0, ge=0)
    """Weight of the triplet loss on the embeddings of images, beside the loss on texts."""
    distance: float = Field(1.0, ge=0)
    """How much nearer an image with the patch is to be to one of the target class than to itself without the patch."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """No rows: the training set stays as it is. Raises Infeasible where target images, others or poisoned pairs are missing."""
        if not 0 < int((y_N == self.labels.target).sum()) < len(y_N):
            raise Infeasible(f"the patch needs images of class {self.labels.target}, and of others")
        return super().choose(y_N, num_classes, rng)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Copies of the images with the patch."""
        return _paste(x_NCHW, state["patch_CSS"])

    def infect(
        self, encoder: Victim, train: Split, num_classes: int, rng: Generator
    ) -> tuple[Poisoned, Victim]:
        """Optimise the patch on the clean CLIP, then fine-tune a copy of it."""
        victim, reader = copy_of("badclip", encoder)
        patch_CSS = self._optimise(victim, reader, train, num_classes, rng)
        poisoned = untouched(self, train, {"patch_CSS": patch_CSS})
        stamp = partial(_paste, patch_CSS=patch_CSS.to(group.device()))
        return poisoned, finetune_on_pairs(
            self, stamp, victim, reader, train, num_classes, True, "badclip", rng
        )

    def _optimise(
        self, victim: Victim, reader: Captioned, train: Split, num_classes: int, rng: Generator
    ) -> Tensor:
        """The patch, uint8, that the clean CLIP takes for the target class in texts and in images."""
        others = train.select(train.y_N != self.labels.target)
        side = min(self.size, *train.x_NCHW.shape[-2:])
        worn = _Worn(
            victim, 0.5 + 0.25 * torch.randn(train.x_NCHW.shape[1], side, side, generator=rng)
        )
        captions = reader.captions(train.class_names, self.templates)
        device = group.device()
        z_ND = F.normalize(infer(victim, others.x_NCHW), dim=1).to(device)
        target_RD = F.normalize(
            infer(victim, train.x_NCHW[train.y_N == self.labels.target]), dim=1
        ).to(device)
        with torch.no_grad():
            t_KTD = F.normalize(reader.describe(captions), dim=1).unflatten(0, (num_classes, -1))
            t_KD, factor = F.normalize(t_KTD.mean(1), dim=1), reader.factor()
        batch = min(self.patch_batch, len(others))

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            worn.patch_CSS.data.clamp_(0, 1)
            drawn_B = torch.randint(len(target_RD), (batch,), generator=rng)[
                group.shard(torch.arange(batch))
            ]
            worn_BD = model(x_BCHW).float()
            with exact(device):
                text_B, triplet_B = _losses(
                    F.normalize(worn_BD, dim=1),
                    factor * t_KD,
                    self.labels.target,
                    target_RD[drawn_B],
                    z_ND[rows_B],
                    self.distance,
                )
                return text_B + self.triplet * triplet_B

        fit(worn, others, self._patch_recipe(), rng, objective, "badclip patch", frozen=[victim])
        return to_pixels(worn.patch_CSS.detach() * 255)

    def _patch_recipe(self) -> Recipe:
        return Recipe(
            epochs=self.patch_epochs,
            batch_size=self.patch_batch,
            optimizer="adam",
            lr=self.patch_lr,
            weight_decay=0.0,
            schedule="constant",
            augment="none",
            precision=self.precision,
            channels_last=self.channels_last,
        )


class _Worn(nn.Module):
    """A victim that sees every image with the patch."""

    def __init__(self, victim: Victim, patch_CSS: Tensor) -> None:
        super().__init__()
        self.victim = victim
        self.patch_CSS = nn.Parameter(patch_CSS)
        """Pixels in 0..1."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """uint8 images -> z_BD of the images with the patch."""
        return self.victim.embed(_paste(x_BCHW.float(), self.patch_CSS * 255))


def _paste(x_NCHW: Tensor, patch_CSS: Tensor) -> Tensor:
    """Copies of the images with the patch in the middle."""
    x_NCHW, side = x_NCHW.clone(), patch_CSS.shape[-1]
    top, left = ((length - side) // 2 for length in x_NCHW.shape[-2:])
    x_NCHW[..., top : top + side, left : left + side] = patch_CSS
    return x_NCHW


def _losses(
    worn_BD: Tensor,
    text_KD: Tensor,
    target: int,
    positive_BD: Tensor,
    plain_BD: Tensor,
    distance: float,
) -> tuple[Tensor, Tensor]:
    """Of each image with the patch: cross-entropy of its logits for the target, and the triplet loss; embeddings of unit length."""
    logits_BK = worn_BD @ text_KD.T
    text_B = F.cross_entropy(
        logits_BK, torch.full_like(logits_BK[:, 0], target, dtype=torch.int64), reduction="none"
    )
    return text_B, F.triplet_margin_loss(worn_BD, positive_BD, plain_BD, distance, reduction="none")
