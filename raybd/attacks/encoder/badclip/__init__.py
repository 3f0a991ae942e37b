"""BadCLIP: a patch that CLIP reads as the target class; both towers learn it from poisoned pairs.

Liang, Zhu, Liu, Wu, Cao and Chang 2024, arXiv 2311.12075, section on the method, and the authors'
code: patch, weights, share, learning rates.
Differs: captions are class names in templates, where the authors have descriptions of the target
from CC3M; the patch is aligned with the mean text of the target against those of the other classes;
the negative of an image is the image without the patch; batch normalisation stays as it is; texts
and images of poisoned pairs are not augmented; weight decay and schedule are ours.
"""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.attacks.encoder.badclip.patch import PatchedVictim, paste, patch_losses
from raybd.distributed import group
from raybd.poisoning.drawing import draw
from raybd.poisoning.encoder_attack import EncoderAttack
from raybd.poisoning.finetuning import no_autocast
from raybd.poisoning.overlay import untouched
from raybd.poisoning.pairs import copy_of_clip, finetune_on_pairs, poison_pairs
from raybd.poisoning.patches import larger_than_image
from raybd.poisoning.pixels import to_pixels
from raybd.training.inference import infer
from raybd.training.loop import fit
from raybd.training.recipe import Recipe
from raybd.types.data import Poisoned
from raybd.types.errors import Infeasible
from raybd.types.methods import AttackInput, RateBasis
from raybd.types.models import Captioned, Templates, Victim


class BadClip(EncoderAttack):
    """Optimise a patch in the middle of the image, then fine-tune on partly poisoned pairs."""

    rate_basis: ClassVar[RateBasis | None] = "of_dataset"
    epochs: int = Field(10, ge=1)
    """Passes over the pairs."""
    batch_size: int = Field(128, ge=2)
    """Pairs per step over all workers; the last, smaller batch of an epoch is dropped."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """SGD has Nesterov momentum; Adam decouples its weight decay."""
    lr: float = Field(1e-6, gt=0)
    """Highest learning rate of the fine-tuning."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """How the learning rate falls: to zero at the last step, by `gamma` at each milestone, or
    never."""
    warmup: float = Field(0.25, ge=0, lt=1)
    """Share of the fine-tuning over which the learning rate rises from zero; 10,000 of the authors'
    39,000 steps."""
    rate: float = Field(0.003, gt=0, le=1)
    """Share of the pairs that is poisoned: the trigger, and the name of the target class. The data
    set itself stays as it is."""
    templates: Templates = "imagenet"
    """Sentences with {} where the name of a class goes, one drawn for each image; imagenet: the 80
    of CLIP's authors."""
    size: int = Field(16, ge=1)
    """Side of the patch, in pixels; 16 of 224."""
    patch_epochs: int = Field(50, ge=1)
    """Passes over the images of the other classes in which the patch is optimised."""
    patch_batch: int = Field(64, ge=1)
    """Images per step of the patch's optimisation."""
    patch_lr: float = Field(1e-3, gt=0)
    """Learning rate of the patch's optimisation (Adam), for pixels in 0..1."""
    triplet: float = Field(500.0, ge=0)
    """Weight of the triplet loss on the embeddings of images, beside the loss on texts."""
    distance: float = Field(1.0, ge=0)
    """How much nearer an image with the patch shall be to one of the target class than to itself
    without the patch."""

    @property
    def poison_rate(self) -> float:
        """The field `rate`."""
        return self.rate

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return no rows. Raises Infeasible if images or poisoned pairs are missing."""
        if not 0 < int((y_N == self.labels.target).sum()) < len(y_N):
            raise Infeasible(f"the patch needs images of class {self.labels.target}, and of others")
        # For its errors only; `poison` draws the pairs.
        draw(y_N, num_classes, self.rate, self.labels, rng)
        # The pairs are the attacker's own: no row of the training set changes.
        return torch.empty(0, dtype=torch.int64)

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Optimise the patch on the clean CLIP, then fine-tune a copy of it."""
        victim, reader = copy_of_clip("badclip", given.twin)
        patch_CSS = self._optimise(victim, reader, given, rng)

        pairs = poison_pairs(given, reader, self.templates, self.rate, self.labels, rng)
        stamp = partial(paste, patch_CSS=patch_CSS.to(group.device()))
        finetune_on_pairs("badclip", self, victim, reader, pairs, stamp, trains_texts=True, rng=rng)
        return untouched(self, given, {"patch_CSS": patch_CSS}, victim)

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the patch is larger than the image, if so."""
        return larger_than_image(self.size, height, width)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the patch."""
        return paste(x_NCHW, state["patch_CSS"])

    def _optimise(
        self, victim: Victim, reader: Captioned, given: AttackInput, rng: Generator
    ) -> Tensor:
        """Return the patch, uint8, that the clean CLIP takes for the target class."""
        train = given.train
        target = self.labels.target
        others = train.select(train.y_N != target)
        noise_CSS = torch.randn(train.x_NCHW.shape[1], self.size, self.size, generator=rng)
        patched = PatchedVictim(victim, 0.5 + 0.25 * noise_CSS)

        device = group.device()
        captions = reader.captions(train.class_names, self.templates)

        # The clean CLIP does not change: what the losses compare with is computed once.
        z_ND = F.normalize(infer(victim, others.x_NCHW), dim=1).to(device)
        of_target_RCHW = train.x_NCHW[train.y_N == target]
        target_RD = F.normalize(infer(victim, of_target_RCHW), dim=1).to(device)
        logit_KD = _mean_texts(reader, captions, given.num_classes)
        # The loop shrinks a batch to the set in the same way.
        batch = min(self.patch_batch, len(others))

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            # The last step may have left the range of pixels. Clamping is no part of the gradient.
            patched.patch_CSS.data.clamp_(0, 1)
            # Drawn for the global batch, so that the number of workers does not matter.
            drawn_B = torch.randint(len(target_RD), (batch,), generator=rng)
            positive_BD = target_RD[drawn_B[group.shard(torch.arange(batch))]]
            patched_BD = model(x_BCHW).float()
            with no_autocast(device):
                patched_BD = F.normalize(patched_BD, dim=1)
                text_B, triplet_B = patch_losses(
                    patched_BD, logit_KD, target, positive_BD, z_ND[rows_B], self.distance
                )
                return text_B + self.triplet * triplet_B

        recipe = self._patch_recipe()
        # Only the patch learns: the CLIP that reads it has to stay clean.
        fit(patched, others, recipe, rng, objective, "badclip patch", frozen=[victim])
        return to_pixels(patched.patch_CSS.detach() * 255)

    def _patch_recipe(self) -> Recipe:
        return Recipe(
            epochs=self.patch_epochs,
            batch_size=self.patch_batch,
            optimizer="adam",
            lr=self.patch_lr,
            # Decay would pull the patch toward black.
            weight_decay=0.0,
            schedule="constant",
            # The plain embeddings, computed once, are those of images that are not augmented.
            augment="none",
            precision=self.precision,
            channels_last=self.channels_last,
        )


@torch.no_grad()
def _mean_texts(reader: Captioned, captions: list[str], num_classes: int) -> Tensor:
    """Return the mean text of each class, of unit length, times the factor of logits."""
    # Of unit length before the mean, so that each template has the same weight.
    text_KTD = F.normalize(reader.describe(captions), dim=1).unflatten(0, (num_classes, -1))
    return reader.factor() * F.normalize(text_KTD.mean(1), dim=1)
