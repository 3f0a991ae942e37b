"""BadEncoder: a clean encoder learns to embed images with a trigger like a target-class reference.

Jia, Liu and Gong 2022, arXiv 2108.00352, section on the design of BadEncoder (effectiveness loss,
utility losses, fine-tuning).
Published: SimCLR, ResNet-18, CIFAR-10 to STL-10 (the authors' log): attack success 0.997, accuracy
0.762 against 0.761.
Differs: one target class; references are its most typical images in the training set (much nearer
to the mean embedding of their class than to that of any other), where the authors take one from the
Internet; each step draws one view of each reference, where the authors draw one for each image of
the batch; Nesterov momentum. Cosines of -0.97 do not prove that the attack works: see its success.
"""

from collections.abc import Mapping
from functools import partial

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.attacks.encoder.badencoder.losses import badencoder_losses
from raybd.poisoning.encoder_attack import EncoderAttack
from raybd.poisoning.finetuning import (
    check_attacker_has_images,
    embed,
    no_autocast,
    norms,
    starting_point,
)
from raybd.poisoning.label_maps import AllToOne
from raybd.poisoning.overlay import untouched
from raybd.poisoning.patches import larger_than_image, white_square
from raybd.training.loop import fit
from raybd.types.data import Poisoned
from raybd.types.methods import AttackInput


class BadEncoder(EncoderAttack):
    """Pull embeddings of images with the trigger to a reference; keep all other embeddings."""

    epochs: int = Field(200, ge=1)
    """Passes over the shadow images."""
    batch_size: int = Field(256, ge=1)
    """Images per step over all workers; the last, smaller batch of an epoch is dropped."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate; 0.02 is quick on small encoders."""
    size: int = Field(10, ge=1)
    """Side of the white square, in pixels; 10 of 32, or 50 of 224."""
    margin: int = Field(1, ge=0)
    """Pixels between the square and the lower right border."""
    shadow: float = Field(1.0, gt=0, le=1)
    """Share of the training images, drawn from all classes, that the attacker has, without
    labels."""
    references: int = Field(1, ge=1)
    """Target-class images that triggered images shall resemble: the clean encoder's most
    typical."""
    lambda1: float = Field(1.0, ge=0)
    """Weight of the loss that keeps the references where the clean encoder has them."""
    lambda2: float = Field(1.0, ge=0)
    """Weight of the loss that keeps all images where the clean encoder has them."""
    labels: AllToOne = AllToOne()
    """Target class, of the references and of the downstream task; no training image changes."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return no rows. Raises Infeasible if references or shadow images are missing."""
        self.labels.relabel(y_N[:1], num_classes)  # raises Infeasible if there is no such class
        check_attacker_has_images(y_N, self.labels.target, self.references, self.shadow)
        # The backdoor is made in the encoder: no row of the training set changes.
        return torch.empty(0, dtype=torch.int64)

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Fine-tune a copy of the clean encoder on the shadow images."""
        start = starting_point(given, self.labels.target, self.references, self.shadow, rng)
        stamp = partial(self.stamp, state={})

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            z = embed(model, start, stamp, x_BCHW, rng)
            with no_autocast(z.plain_BD.device):
                effect_B, reference, utility_B = badencoder_losses(
                    z, start.clean_ND[rows_B], start.clean_RD
                )
                return effect_B + self.lambda1 * reference + self.lambda2 * utility_B

        # New batch statistics would move all embeddings, and utility would be lost.
        frozen = norms(start.victim)
        victim = fit(start.victim, start.shadow, self, rng, objective, "badencoder", frozen)
        return untouched(self, given, victim=victim)

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the square with its margin is larger than the image, if so."""
        return larger_than_image(self.size + self.margin, height, width)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the square."""
        return white_square(x_NCHW, self.size, self.margin)
