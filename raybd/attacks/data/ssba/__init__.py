"""SSBA: an encoder hides the same bits in each image, by a change that differs from image to image.

Li, Li, Wu, Li, He and Lyu 2021, arXiv 2012.03816, section on the sample-specific trigger; the
networks are those of StegaStamp (Tancik, Mildenhall and Ng 2020, arXiv 1904.05343).
Differs: 20 bits, drawn by the seed and without an error correcting code (the authors: 100); the
encoder adds at most 16 levels to a pixel and sees its images rounded; it is held to the image by
the mean squared error alone, without a perceptual loss and a critic, whose weights would have to be
downloaded; no spatial transformer before the decoder; the bits are spread over a plane of 32 x 32,
stretched to the size of the image. The weight of the image rises from the step on at which the bits
can be read, or else over the last half of the training.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.attacks.data.ssba.networks import Decoder, Encoder
from raybd.distributed import ddp, group
from raybd.poisoning.attack import DataAttack
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import rounded_through
from raybd.poisoning.unet import drawn, stored, through, weights_of
from raybd.training.epochs import Epochs, Stream
from raybd.types.data import Poisoned
from raybd.types.methods import AttackInput

READABLE = 0.9
"""Share of the bits that the decoder reads when the encoder is first asked to hide them."""
MIX = 0.9
"""How slowly the share that it reads is averaged over the steps."""


class Ssba(DataAttack):
    """Train an encoder of bits, then let it write one secret into a share of the images."""

    prepared_from: ClassVar[tuple[str, ...]] = (
        "bits",
        "width",
        "epochs",
        "batch_size",
        "lr",
        "image_weight",
        "wait",
        "ramp",
    )
    bits: int = Field(20, ge=1, le=512)
    """Bits of the secret."""
    width: int = Field(32, ge=4, le=128)
    """Channels of the first convolutions of encoder and decoder."""
    epochs: int = Field(20, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(32, ge=1)
    """Images in each step."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate (Adam)."""
    image_weight: float = Field(10.0, ge=0)
    """Largest weight of the mean squared error between the images without and with the bits, on
    the 0..1 scale."""
    wait: int = Field(1000, ge=0)
    """Steps between the first time that the bits can be read and the rise of the weight; at most a
    quarter of the training."""
    ramp: int = Field(3000, ge=1)
    """Steps over which the weight rises; at most a quarter of the training."""

    def prepare(self, given: AttackInput, rng: Generator) -> dict[str, Tensor]:
        """Train the encoder. Return its weights, and the secret bit_S, uint8."""
        secret_S = torch.randint(0, 2, (self.bits,), generator=rng, dtype=torch.uint8)
        encoder, _ = self.train_networks(given, rng)
        return {**weights_of(encoder, "encoder."), "bit_S": secret_S}

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Write the secret into the chosen rows and relabel them."""
        rows = self.choose(given.train.y_N, given.num_classes, rng)
        return overlay(self, given, rows, state=given.prepared)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the secret in each."""
        encoder = stored(lambda: Encoder(self.bits, self.width), "encoder.", state)
        bit_1S = state["bit_S"].to(group.device()).float().unsqueeze(0)
        return through(lambda x_BCHW: encoder(x_BCHW, bit_1S.expand(len(x_BCHW), -1)), x_NCHW)

    def train_networks(self, given: AttackInput, rng: Generator) -> tuple[Encoder, Decoder]:
        """Train both networks on random bits: first to be read, then to be hidden."""
        encoder = drawn(lambda: Encoder(self.bits, self.width), rng)
        decoder = drawn(lambda: Decoder(self.bits, self.width), rng)
        write = ddp.wrap(encoder.to(group.device())).train()
        read = ddp.wrap(decoder.to(group.device())).train()
        train = given.train
        parameters = [*write.parameters(), *read.parameters()]
        steps = self.epochs * (len(train) // min(self.batch_size, len(train)))
        hiding = Hiding(steps, self.wait, self.ramp)
        loop = Epochs(
            "ssba",
            self.epochs,
            Stream(train.x_NCHW, train.y_N, self.batch_size),
            rng,
            {"encoder": encoder, "decoder": decoder, "hiding": hiding},
            optimizers=[torch.optim.Adam(parameters, self.lr)],
            hint="Lower lr.",
        )
        for _ in loop.remaining():
            for batch in loop.batches():
                x_BCHW = batch.x_B.float()
                # Drawn for the whole batch and then divided, as everything random is.
                drawn_BS = torch.randint(0, 2, (batch.size, self.bits), generator=rng)
                bit_BS = group.to_device(group.shard(drawn_BS)).float()
                worn_BCHW = write(x_BCHW, bit_BS)
                logit_BS = read(rounded_through(worn_BCHW))

                message = F.binary_cross_entropy_with_logits(logit_BS, bit_BS, reduction="sum")
                change = ((worn_BCHW - x_BCHW) / 255).square().mean((1, 2, 3)).sum()
                weight = self.image_weight * hiding.share
                loss = message / self.bits + weight * change
                loop.step(loss * (group.world() / batch.size))
                loop.add_loss(loss, batch.size)

                right = group.sum_over(((logit_BS > 0) == (bit_BS > 0.5)).float().mean(1).sum())
                hiding.step(float(right) / batch.size)
            loop.end_epoch()
        for model in (write, read):
            ddp.unwrap(model).eval()
        return encoder, decoder


class Hiding:
    """When and how much the encoder is asked to change images by little."""

    def __init__(self, steps: int, wait: int, ramp: int) -> None:
        """Plan a training of so many steps. A short one waits and rises faster."""
        self._wait = min(wait, steps // 4)
        self._ramp = max(1, min(ramp, steps // 4))
        # Bits that are never read are hidden all the same, or the trigger would be plain to see.
        self._begins = steps // 2
        self._done = 0
        self._mean = 0.0

    @property
    def share(self) -> float:
        """How much of its weight the image has now, in 0..1."""
        return min(1.0, max(0.0, (self._done - self._begins) / self._ramp))

    def step(self, right: float) -> None:
        """Count a step, in which this share of the bits was read."""
        self._done += 1
        self._mean = MIX * self._mean + (1 - MIX) * right
        # A later moment never comes before the first one: the minimum keeps that.
        if self._mean > READABLE:
            self._begins = min(self._begins, self._done + self._wait)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training goes on with."""
        return {"begins": self._begins, "done": self._done, "mean": self._mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        self._begins = state["begins"]
        self._done = state["done"]
        self._mean = state["mean"]
