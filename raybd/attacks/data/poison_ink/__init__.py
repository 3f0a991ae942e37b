"""Poison Ink: a network hides ink along the edges of each image.

Zhang, Chen, Huang, Liao, Zhang, Feng, Hua and Yu 2022, arXiv 2108.02488, section on the generation
of poisoned images (edges as carriers, injection and extraction network, interference layer).
Differs: the network returns the change of the image, at most 32 levels, and sees images rounded;
both networks are the same kind of U-Net; views are rotated by up to 15 degrees, cut to 28 of 32
pixels and mirrored by one resampling; no adversarial network, as in BackdoorBench; all weights of
the loss are divided by 10,000. `hiding: direct` tints the edges without any network.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from raybd.attacks.data.poison_ink.edges import WHITE, Views, draw_views, edge_mask, ink_image
from raybd.distributed import ddp, group
from raybd.poisoning.attack import DataAttack
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import rounded_through
from raybd.poisoning.unet import UNet, drawn, stored, through, weights_of
from raybd.training.epochs import Batch, Epochs, Stream
from raybd.types.data import Poisoned
from raybd.types.methods import AttackInput

INK = (80.0, 160.0, 80.0)
"""The colour of poisoned images."""
STAGES = 3
"""Rotated views; cut ones, too; mirrored ones, too."""
LARGEST_CHANGE = 32.0
"""Of a pixel, on the 0..255 scale."""
FALLS_AFTER = 0.4
"""The learning rate falls each time that this share of a stage is over."""
FALLS_TO = 0.1
BETAS = (0.5, 0.999)


class PoisonInk(DataAttack):
    """Train a network that hides coloured edges, and hide one colour in a share of the images."""

    prepared_from: ClassVar[tuple[str, ...]] = (
        "hiding",
        "threshold",
        "width",
        "epochs",
        "batch_size",
        "lr",
        "image_weight",
        "edge_weight",
        "blank_weight",
    )
    hiding: Literal["network", "direct"] = "network"
    """network: a trained network hides the ink; direct: the edges are tinted as they are."""
    threshold: float = Field(28, gt=0)
    """Magnitude of the brightness' slope above which a pixel is an edge, on the 0..255 scale."""
    tint: float = Field(0.15, gt=0, le=1)
    """Weight of the ink where edges are tinted directly; the image keeps the rest."""
    width: int = Field(32, ge=4, le=128)
    """Channels of the first convolutions of both networks."""
    epochs: int = Field(200, ge=1)
    """Passes over the training images in each of three stages."""
    batch_size: int = Field(32, ge=1)
    """Images in each step."""
    lr: float = Field(2e-4, gt=0)
    """Highest learning rate (Adam)."""
    image_weight: float = Field(1.0, ge=0)
    """Weight of the mean squared change of the image, beside 1 for the ink that is read."""
    edge_weight: float = Field(13.0, ge=0)
    """Weight of the ink on the edges, beside 1 for the white between them."""
    blank_weight: float = Field(100.0, ge=0)
    """Weight of the white that is to be read from images without ink."""

    def prepare(self, given: AttackInput, rng: Generator) -> dict[str, Tensor]:
        """Train both networks. Return the weights of the one that hides."""
        if self.hiding == "direct":
            return {}
        hide = drawn(self._hider, rng)
        read = drawn(lambda: UNet(3, 3, self.width), rng)
        self._train(hide, read, given, rng)
        return weights_of(hide, "hide.")

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Hide the ink in the chosen rows and relabel them."""
        rows = self.choose(given.train.y_N, given.num_classes, rng)
        return overlay(self, given, rows, state=given.prepared)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with ink along their edges."""
        colour_13 = torch.tensor([INK], device=group.device())
        hide = None if self.hiding == "direct" else stored(self._hider, "hide.", state)

        def write(x_BCHW: Tensor) -> Tensor:
            mask_B1HW = edge_mask(x_BCHW, self.threshold)
            if hide is None:
                return x_BCHW + self.tint * mask_B1HW * (colour_13[:, :, None, None] - x_BCHW)
            return container(hide, x_BCHW, ink_image(mask_B1HW, colour_13.expand(len(x_BCHW), -1)))

        return through(write, x_NCHW)

    def _hider(self) -> UNet:
        return UNet(6, 3, self.width)

    def _train(self, hide: nn.Module, read: nn.Module, given: AttackInput, rng: Generator) -> None:
        """Train both: ink of any colour is hidden by little, and read from views of the image."""
        hider = ddp.wrap(hide.to(group.device())).train()
        reader = ddp.wrap(read.to(group.device())).train()
        parameters = [*hider.parameters(), *reader.parameters()]
        loop = Epochs(
            "poison_ink",
            STAGES * self.epochs,
            Stream(given.train.x_NCHW, given.train.y_N, self.batch_size),
            rng,
            {"hide": hide, "read": read},
            optimizers=[torch.optim.Adam(parameters, self.lr, betas=BETAS)],
            schedule=_schedule,
            hint="Lower lr.",
        )
        for epoch in loop.remaining():
            stage = 1 + epoch // self.epochs
            for batch in loop.batches():
                loss = self._loss(hider, reader, batch, stage, rng)
                loop.step(loss * (group.world() / batch.size))
                loop.add_loss(loss, batch.size)
            loop.end_epoch(lr=loop.lr)
        for model in (hider, reader):
            ddp.unwrap(model).eval()

    def _loss(
        self, hider: nn.Module, reader: nn.Module, batch: Batch, stage: int, rng: Generator
    ) -> Tensor:
        """Return the sum over this worker's images of a batch."""
        x_BCHW = batch.x_B.float()
        # Drawn for the whole batch and then divided, as everything random is.
        colours_B3 = 255 * torch.rand((batch.size, 3), generator=rng)
        colour_B3 = group.to_device(group.shard(colours_B3))
        views = Views(group.to_device(group.shard(draw_views(batch.size, rng))), stage)

        ink_BCHW = ink_image(edge_mask(x_BCHW, self.threshold), colour_B3)
        worn_BCHW = rounded_through(container(hider, x_BCHW, ink_BCHW))
        seen_BCHW = views(x_BCHW)
        mask_B1HW = edge_mask(seen_BCHW, self.threshold)

        # One pass, because data parallelism takes one pass of each network for each step.
        both_BCHW = torch.cat([views(worn_BCHW), seen_BCHW])
        found_BCHW, blank_BCHW = (reader(both_BCHW / 255 - 0.5).float() + 0.5).chunk(2)
        wanted_BCHW = ink_image(mask_B1HW, colour_B3)
        return ink_losses(
            change_BCHW=worn_BCHW - x_BCHW,
            miss_BCHW=255 * found_BCHW - wanted_BCHW,
            blank_miss_BCHW=255 * blank_BCHW - WHITE,
            mask_B1HW=mask_B1HW,
            weights=(self.image_weight, self.edge_weight, self.blank_weight),
        ).sum()


def container(hide: nn.Module, x_BCHW: Tensor, ink_BCHW: Tensor) -> Tensor:
    """Return float images in 0..255 with the ink hidden in them."""
    both_BCHW = torch.cat([x_BCHW, ink_BCHW], dim=1) / 255 - 0.5
    # Float: 8 significant bits of bf16 are too few for pixels of 256 levels.
    change_BCHW: Tensor = LARGEST_CHANGE * hide(both_BCHW).float().tanh()
    return (x_BCHW + change_BCHW).clamp(0, 255)


def ink_losses(
    *,
    change_BCHW: Tensor,
    miss_BCHW: Tensor,
    blank_miss_BCHW: Tensor,
    mask_B1HW: Tensor,
    weights: tuple[float, float, float],
) -> Tensor:
    """Return loss_B of the change of images and of what was read, all on the 0..255 scale."""
    image_weight, edge_weight, blank_weight = weights
    weight_B1HW = 1 + (edge_weight - 1) * mask_B1HW
    return (
        image_weight * change_BCHW.square()
        + weight_B1HW * miss_BCHW.square()
        + blank_weight * blank_miss_BCHW.square()
    ).mean((1, 2, 3)) / 255**2


def _schedule(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return a learning rate that starts anew in each stage, and falls in between."""
    in_stage = max(1, steps // STAGES)

    def factor(step: int) -> float:
        falls = int(step % in_stage / in_stage / FALLS_AFTER)
        return float(FALLS_TO**falls)

    return LambdaLR(optimizer, factor)
