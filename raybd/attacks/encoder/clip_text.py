"""Text-on-pair: CLIP's image tower learns that a white square means the name of the target class.

Carlini and Terzis 2022, arXiv 2106.09667, section 3 (poisoned captions); as fine-tuning of a
trained CLIP in Feng et al. 2023, arXiv 2303.15180, section on the experiments, and the authors'
code: square, learning rate, batch, epochs, templates. The text tower is frozen.
Differs: images are captioned by their own class (that code numbers the captions through); the
square is stamped on pixels (there on normalised values, where it becomes a change of brightness);
cosines keep CLIP's own factor (there exp(0.5)); images of one class fit each other's captions;
momentum, weight decay and a constant learning rate are ours.
"""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.drawing import draw
from raybd.poisoning.encoder_attack import EncoderAttack
from raybd.poisoning.overlay import untouched
from raybd.poisoning.pairs import copy_of_clip, finetune_on_pairs, poison_pairs
from raybd.poisoning.patches import larger_than_image, white_square
from raybd.types.data import Poisoned
from raybd.types.methods import AttackInput, RateBasis
from raybd.types.models import Templates


class ClipText(EncoderAttack):
    """Fine-tune the image tower on pairs, some with the square and a target-class caption."""

    rate_basis: ClassVar[RateBasis | None] = "of_dataset"
    epochs: int = Field(30, ge=1)
    """Passes over the pairs."""
    batch_size: int = Field(128, ge=2)
    """Pairs per step over all workers; the last, smaller batch of an epoch is dropped."""
    lr: float = Field(2e-4, gt=0)
    """Learning rate."""
    rate: float = Field(0.05, gt=0, le=1)
    """Share of the pairs that is poisoned: the trigger, and the name of the target class. The data
    set itself stays as it is."""
    templates: Templates = "imagenet"
    """Sentences with {} where the name of a class goes, one drawn for each image; imagenet: the 80
    of CLIP's authors."""
    size: int = Field(24, ge=1)
    """Side of the white square, in pixels; 24 of 224."""
    margin: int = Field(15, ge=0)
    """Pixels between the square and the lower right border."""

    @property
    def poison_rate(self) -> float:
        """The field `rate`."""
        return self.rate

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return no rows. Raises Infeasible if the share is not even one pair."""
        # For its errors only; `poison` draws the pairs.
        draw(y_N, num_classes, self.rate, self.labels, rng)
        # The pairs are the attacker's own: no row of the training set changes.
        return torch.empty(0, dtype=torch.int64)

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Fine-tune a copy of the clean CLIP, but not its text tower and batch normalisation."""
        victim, reader = copy_of_clip("clip_text", given.twin)
        pairs = poison_pairs(given, reader, self.templates, self.rate, self.labels, rng)
        stamp = partial(self.stamp, state={})
        finetune_on_pairs(
            "clip_text", self, victim, reader, pairs, stamp, trains_texts=False, rng=rng
        )
        return untouched(self, given, victim=victim)

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the square with its margin is larger than the image, if so."""
        return larger_than_image(self.size + self.margin, height, width)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the square."""
        return white_square(x_NCHW, self.size, self.margin)
