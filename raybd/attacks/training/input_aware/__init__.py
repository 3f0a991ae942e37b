"""Input-aware (Dynamic): a generator makes a trigger for each image that works on no other image.

Nguyen and Tran 2020, arXiv 2010.08138, section on the proposed method (diversity loss,
cross-trigger test, masks).
Differs: every learning rate falls along a cosine; batches are flipped, not cropped; images are
paired within a batch; at least one image for each worker and batch is poisoned; the overlay is made
once, by the finished generator, on rows of its own draw.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.attacks.training.input_aware.generator import (
    Together,
    diversity_losses,
    new_auto_encoder,
    soft_threshold,
    stored_auto_encoder,
    train_together,
    wear,
)
from raybd.distributed import ddp, group
from raybd.poisoning.attack import DataAttack
from raybd.poisoning.drawing import draw_cross
from raybd.poisoning.label_maps import AllToAll, AllToOne
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import to_pixels
from raybd.training import models
from raybd.types.data import Poisoned, Split
from raybd.types.methods import AttackInput, ThreatModel
from raybd.types.models import Victim


class InputAware(DataAttack):
    """Train a classifier together with a generator of triggers.

    Images with the trigger of another image keep their label (role `cross`).
    """

    version: ClassVar[int] = 2
    threat_model: ClassVar[ThreatModel] = "training"
    rate: float = Field(0.1, gt=0, le=0.5)
    """Share of the training set and of each batch that is poisoned; as many have
    another image's trigger (role `cross`)."""
    epochs: int = Field(100, ge=1)
    """Passes over the training images with classifier and generator."""
    mask_epochs: int = Field(25, ge=1)
    """Passes before that, with the mask network alone."""
    batch_size: int = Field(128, ge=4)
    """Images per step over all workers."""
    lr: float = Field(0.01, gt=0)
    """Highest learning rate of the classifier (SGD, momentum 0.9, weight decay 5e-4)."""
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
    precision: Literal["auto", "fp32"] = "auto"
    """auto: training in bf16 where the hardware has it."""
    labels: Annotated[AllToOne | AllToAll, Field(discriminator="map")] = AllToOne()
    """What happens to the labels."""

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Train masks, then generator and victim; poison rows with the finished generator."""
        train = given.train
        assert given.network is not None  # a plan gives it to an attack that controls training
        rows = self.choose(train.y_N, given.num_classes, rng)
        all_N = torch.ones_like(train.y_N, dtype=torch.bool)
        crossed = draw_cross(train.y_N, rows, self.rate, all_N, rng)

        masker = new_auto_encoder(self.width, 1, rng)
        generator = new_auto_encoder(self.width, 3, rng)
        victim = models.new_victim(train, given.num_classes, given.network, rng)
        self._train_masker(masker, train, rng)
        self._train_jointly(victim, generator, masker, train, given.num_classes, rng)

        state = {
            prefix + name: tensor.cpu().contiguous()
            for prefix, part in (("generator.", generator), ("masker.", masker))
            for name, tensor in part.state_dict().items()
        }
        x_LCHW = self._wear(train.x_NCHW[crossed], train.x_NCHW[(crossed + 1) % len(train)], state)
        victim = victim.cpu().to(memory_format=torch.contiguous_format).eval()
        return overlay(self, given, rows, state=state, cross=(crossed, x_LCHW), victim=victim)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images, each with the trigger that is made for it."""
        return self._wear(x_NCHW, x_NCHW, state)

    @torch.no_grad()
    def _wear(self, x_NCHW: Tensor, source_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Copies of the images, each with the trigger that is made for its source."""
        generator = stored_auto_encoder(self.width, 3, "generator.", state)
        masker = stored_auto_encoder(self.width, 1, "masker.", state)
        worn_NCHW = torch.empty_like(x_NCHW)
        for rows_B in torch.arange(len(x_NCHW)).split(500):
            x_BCHW, source_BCHW = (
                part[rows_B].to(group.device()).float() for part in (x_NCHW, source_NCHW)
            )
            worn_NCHW[rows_B] = to_pixels(
                wear(x_BCHW, generator(source_BCHW), soft_threshold(masker(source_BCHW)))
            ).cpu()
        return worn_NCHW

    def _train_masker(self, masker: nn.Module, train: Split, rng: Generator) -> None:
        """Sparse masks that differ from image to image."""
        model = ddp.wrap(masker.to(group.device())).train()

        def objective(x_BCHW: Tensor, y_B: Tensor) -> Tensor:
            pairs = len(x_BCHW) // 2
            first = group.shard(torch.arange(pairs))
            both_BCHW = x_BCHW[torch.cat([first, first + pairs])]
            mask_B1HW = soft_threshold(model(both_BCHW))
            diversity = diversity_losses(*both_BCHW.chunk(2), *mask_B1HW.chunk(2)).sum() / pairs
            excess = (mask_B1HW - self.density).relu().mean((1, 2, 3)).sum() / (2 * pairs)
            return self.lambda_div * diversity + self.lambda_norm * excess

        together = Together({"masker": masker}, {"adam": self._adam(model)}, objective)
        train_together(
            "input_aware masks",
            together,
            train,
            self.mask_epochs,
            self.batch_size,
            self.precision,
            rng,
        )
        ddp.unwrap(model).eval()

    def _train_jointly(
        self,
        victim: Victim,
        generator: nn.Module,
        masker: nn.Module,
        train: Split,
        num_classes: int,
        rng: Generator,
    ) -> None:
        """Victim and generator on triggered images, cross images and clean ones; the masks stay as they are."""
        victim.to(memory_format=torch.channels_last)
        classify, generate = (
            ddp.wrap(part.to(group.device())).train() for part in (victim, generator)
        )
        sgd = torch.optim.SGD(
            classify.parameters(), self.lr, 0.9, weight_decay=5e-4, nesterov=True, fused=True
        )

        def objective(x_BCHW: Tensor, y_B: Tensor) -> Tensor:
            batch = len(x_BCHW)
            pairs = min(batch // 2, max(group.world(), round(self.rate * batch)))
            poison = group.shard(torch.arange(pairs))
            cross, clean = poison + pairs, group.shard(torch.arange(2 * pairs, batch))
            source_BCHW = x_BCHW[torch.cat([poison, (cross + pairs) % batch])]
            with torch.no_grad():
                mask_B1HW = soft_threshold(masker(source_BCHW))
            pattern_BCHW = generate(source_BCHW)
            worn_BCHW = wear(x_BCHW[torch.cat([poison, cross])], pattern_BCHW, mask_B1HW)
            wanted_B = torch.cat(
                [self.labels.relabel(y_B[poison], num_classes), y_B[cross], y_B[clean]]
            )
            losses_B = F.cross_entropy(
                classify(torch.cat([worn_BCHW, x_BCHW[clean]])), wanted_B, reduction="none"
            )
            diversity = (
                diversity_losses(*source_BCHW.chunk(2), *pattern_BCHW.chunk(2)).sum() / pairs
            )
            return losses_B.sum() / batch + self.lambda_div * diversity

        networks, optimizers = (
            {"victim": victim, "generator": generator},
            {"sgd": sgd, "adam": self._adam(generate)},
        )
        together = Together(networks, optimizers, objective)
        train_together(
            "input_aware", together, train, self.epochs, self.batch_size, self.precision, rng
        )
        for model in (classify, generate):
            ddp.unwrap(model).eval()

    def _adam(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), self.generator_lr, betas=(0.5, 0.9), fused=True)
