"""Input-aware (Dynamic): a generator makes a trigger for each image that works on no other image.

Nguyen and Tran 2020, arXiv 2010.08138, section on the proposed method (diversity loss,
cross-trigger test, masks).
Differs: the classifier is trained by the recipe of the experiment's trainer. By default, that has
Nesterov momentum, a cosine and 100 epochs (the authors: plain momentum, steps, 600 epochs), and
crops and flips images (the authors also rotate them). The classifier normalises by the moments of
the training split. Generator and mask network see images in -1..1 and not normalised ones, so that
distances of images, in the diversity loss of the masks, are half of those on CIFAR-10; their
learning rates fall along a cosine. Images are paired within a batch; at least one image for each
worker and batch is poisoned; the overlay is made once, by the finished generator, on rows of its
own draw.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from raybd.attacks.training.input_aware.generator import (
    diversity_losses,
    new_auto_encoder,
    soft_threshold,
    stored_auto_encoder,
    wear,
)
from raybd.distributed import ddp, group
from raybd.poisoning.attack import DataAttack
from raybd.poisoning.drawing import draw_cross
from raybd.poisoning.label_maps import AllToAll, AllToOne
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import to_pixels
from raybd.training import models
from raybd.training.epochs import Epochs, Stream
from raybd.training.precision import bf16
from raybd.training.recipe import Recipe, new_optimizer, new_schedule
from raybd.types.config import Config
from raybd.types.data import Poisoned, Split
from raybd.types.methods import AttackInput, ThreatModel
from raybd.types.models import Victim

Objective = Callable[[Tensor, Tensor], Tensor]
"""(x_BCHW float in 0..255, y_B) of a whole batch -> this worker's part of its loss. The loss is the
sum of the parts."""


MIN_BATCH = 4
"""Images of a batch that hold a poisoned pair and clean ones."""


@dataclass(frozen=True)
class _Training:
    """What all parts of the training share."""

    train: Split
    num_classes: int
    recipe: Recipe
    rng: Generator

    @property
    def layout(self) -> torch.memory_format:
        """The memory layout of images and victim."""
        return torch.channels_last if self.recipe.channels_last else torch.contiguous_format

    def minimise(
        self,
        name: str,
        epochs: int,
        objective: Objective,
        networks: Mapping[str, nn.Module],
        optimizers: Sequence[Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
        clip: float | None = None,
    ) -> None:
        """Minimise an objective over batches that are augmented as the recipe says."""
        recipe = self.recipe
        # Not sharded: the images of a pair may belong to different workers.
        stream = Stream(
            self.train.x_NCHW,
            self.train.y_N,
            recipe.batch_size,
            recipe.augment,
            recipe.bounds,
            sharded=False,
        )
        loop = Epochs(
            name,
            epochs,
            stream,
            self.rng,
            networks,
            optimizers=optimizers,
            schedule=schedule,
            clip=clip,
            hint=f"Lower generator_lr, or the trainer's lr (now {recipe.lr:g}).",
        )
        for _ in loop.remaining():
            for batch in loop.batches():
                x_BCHW = batch.augmented(batch.x_B).float().contiguous(memory_format=self.layout)
                with bf16(group.device(), recipe.precision == "auto"):
                    loss = objective(x_BCHW, batch.y_B)
                # Parts add up to the loss, but data parallelism averages: the factor undoes that.
                loop.step(loss * group.world())
                loop.add_loss(loss, 1)
            loop.end_epoch(lr=loop.lr)


class InputAware(DataAttack):
    """Train a classifier, by the trainer's recipe, together with a generator of triggers.

    Images with the trigger of another image keep their label (role `cross`).
    """

    # 2: training in bf16 changed the numbers. 3: the recipe is the trainer's.
    version: ClassVar[int] = 3
    threat_model: ClassVar[ThreatModel] = "training"
    follows_recipe: ClassVar[bool] = True
    # With as many cross images, a larger share would not fit into a batch.
    rate: float = Field(0.1, gt=0, le=0.5)
    """Share of the training set and of each batch that is poisoned; as many have
    another image's trigger (role `cross`)."""
    mask_epochs: int = Field(25, ge=1)
    """Passes over the training images with the mask network alone, before those of the recipe with
    classifier and generator."""
    generator_lr: float = Field(0.01, gt=0)
    """Highest learning rate of the generator and the mask network (Adam)."""
    density: float = Field(0.032, gt=0, lt=1)
    """Share of the pixels that a mask may cover at no cost."""
    lambda_div: float = Field(1.0, ge=0)
    """Weight of the diversity loss, of masks and of patterns."""
    lambda_norm: float = Field(100.0, ge=0)
    """Weight of what a mask covers beyond its density."""
    width: int = Field(32, ge=4, le=256)
    """Channels of the first convolutions of generator and mask network."""
    labels: Annotated[AllToOne | AllToAll, Field(discriminator="map")] = AllToOne()
    """What happens to the labels."""

    def cannot_train_as(self, trainer: Config) -> str | None:
        """Return why it cannot train victims as this trainer would, if so."""
        if isinstance(trainer, Recipe) and trainer.batch_size < MIN_BATCH:
            return f"it pairs the images of a batch: set batch_size to {MIN_BATCH} or more"
        return super().cannot_train_as(trainer)

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Train masks, then generator and victim; poison rows with the finished generator."""
        train = given.train
        # A plan gives both to an attack that controls training and follows the recipe.
        assert given.network is not None
        assert isinstance(given.recipe, Recipe)
        rows = self.choose(train.y_N, given.num_classes, rng)
        all_N = torch.ones_like(train.y_N, dtype=torch.bool)
        crossed = draw_cross(train.y_N, rows, self.rate, all_N, rng)

        masker = new_auto_encoder(self.width, 1, rng)
        generator = new_auto_encoder(self.width, 3, rng)
        victim = models.new_victim(train, given.num_classes, given.network, rng)
        training = _Training(train, given.num_classes, given.recipe, rng)
        self._train_masker(masker, training)
        self._train_jointly(victim, generator, masker, training)

        # The state is flat: prefixes keep the two networks apart.
        state = {
            prefix + name: tensor.cpu().contiguous()
            for prefix, part in (("generator.", generator), ("masker.", masker))
            for name, tensor in part.state_dict().items()
        }
        # The next row is another image for certain, and needs no draw.
        x_LCHW = self._wear(train.x_NCHW[crossed], train.x_NCHW[(crossed + 1) % len(train)], state)
        # In the layout that every training hands out.
        victim = victim.cpu().to(memory_format=torch.contiguous_format).eval()
        return overlay(self, given, rows, state=state, cross=(crossed, x_LCHW), victim=victim)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images, each with the trigger that is made for it."""
        return self._wear(x_NCHW, x_NCHW, state)

    @torch.no_grad()
    def _wear(self, x_NCHW: Tensor, source_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images, each with the trigger that is made for its source."""
        generator = stored_auto_encoder(self.width, 3, "generator.", state)
        masker = stored_auto_encoder(self.width, 1, "masker.", state)
        worn_NCHW = torch.empty_like(x_NCHW)
        # In parts, because feature maps of all images would not fit into memory.
        for rows_B in torch.arange(len(x_NCHW)).split(500):
            x_BCHW = x_NCHW[rows_B].to(group.device()).float()
            source_BCHW = source_NCHW[rows_B].to(group.device()).float()
            mask_B1HW = soft_threshold(masker(source_BCHW))
            worn_BCHW = wear(x_BCHW, generator(source_BCHW), mask_B1HW)
            worn_NCHW[rows_B] = to_pixels(worn_BCHW).cpu()
        return worn_NCHW

    def _train_masker(self, masker: nn.Module, training: _Training) -> None:
        """Train sparse masks that differ from image to image."""
        model = ddp.wrap(masker.to(group.device())).train()

        def objective(x_BCHW: Tensor, y_B: Tensor) -> Tensor:
            # Batches are shuffled, so that their halves make random pairs.
            pairs = len(x_BCHW) // 2
            first = group.shard(torch.arange(pairs))
            both_BCHW = x_BCHW[torch.cat([first, first + pairs])]
            mask_B1HW = soft_threshold(model(both_BCHW))
            diversity = diversity_losses(*both_BCHW.chunk(2), *mask_B1HW.chunk(2)).sum() / pairs
            # What lies below the density is free, so that a mask is not driven to nothing.
            excess = (mask_B1HW - self.density).relu().mean((1, 2, 3)).sum() / (2 * pairs)
            return self.lambda_div * diversity + self.lambda_norm * excess

        training.minimise(
            "input_aware masks",
            self.mask_epochs,
            objective,
            {"masker": masker},
            [self._adam(model)],
            CosineAnnealingLR,
        )
        ddp.unwrap(model).eval()

    def _train_jointly(
        self,
        victim: Victim,
        generator: nn.Module,
        masker: nn.Module,
        training: _Training,
    ) -> None:
        """Train victim and generator on poisoned, cross and clean images; the masks are fixed."""
        recipe = training.recipe
        victim.to(memory_format=training.layout)
        classify = ddp.wrap(victim.to(group.device())).train()
        generate = ddp.wrap(generator.to(group.device())).train()
        of_victim = new_optimizer(classify, recipe)

        def objective(x_BCHW: Tensor, y_B: Tensor) -> Tensor:
            batch = len(x_BCHW)
            # Each worker needs a pair: its part of a batch without one would have no diversity.
            pairs = min(batch // 2, max(group.world(), round(self.rate * batch)))
            poison = group.shard(torch.arange(pairs))
            cross = poison + pairs
            clean = group.shard(torch.arange(2 * pairs, batch))

            # A cross image wears the trigger of the image `pairs` places on. That is never itself,
            # because `pairs` is at most half of the batch.
            source_BCHW = x_BCHW[torch.cat([poison, (cross + pairs) % batch])]
            with torch.no_grad():
                mask_B1HW = soft_threshold(masker(source_BCHW))
            pattern_BCHW = generate(source_BCHW)
            worn_BCHW = wear(x_BCHW[torch.cat([poison, cross])], pattern_BCHW, mask_B1HW)

            # Cross images keep their label, so that a trigger of another image means nothing.
            target_B = self.labels.relabel(y_B[poison], training.num_classes)
            wanted_B = torch.cat([target_B, y_B[cross], y_B[clean]])
            # One pass, so that batch normalisation sees poisoned, cross and clean images together.
            logits_BK = classify(torch.cat([worn_BCHW, x_BCHW[clean]]))
            losses_B = F.cross_entropy(logits_BK, wanted_B, reduction="none")
            diversity_B = diversity_losses(*source_BCHW.chunk(2), *pattern_BCHW.chunk(2))
            return losses_B.sum() / batch + self.lambda_div * (diversity_B.sum() / pairs)

        def schedule(optimizer: Optimizer, steps: int) -> LRScheduler:
            if optimizer is of_victim:
                return new_schedule(optimizer, recipe, steps)
            return CosineAnnealingLR(optimizer, steps)

        training.minimise(
            "input_aware",
            recipe.epochs,
            objective,
            {"victim": victim, "generator": generator},
            [of_victim, self._adam(generate)],
            schedule,
            recipe.clip,
        )
        for model in (classify, generate):
            ddp.unwrap(model).eval()

    def _adam(self, model: nn.Module) -> torch.optim.Optimizer:
        # The betas of the authors' code.
        return torch.optim.Adam(model.parameters(), self.generator_lr, betas=(0.5, 0.9), fused=True)
