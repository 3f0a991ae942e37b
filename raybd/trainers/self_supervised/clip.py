"""CLIP: an image and its caption point the same way, and away from all others in the batch.

Radford et al. 2021, arXiv 2103.00020, section 2.3 and figure 3; section 2.5 for the recipe (Adam,
decoupled decay, cosine).
Differs: captions are the names of the classes in templates; several images of one class in a batch
fit each other's captions, in equal shares; weight decay is on all weights; classes are few, so
batches are small; images are cropped and flipped.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.training.recipe import Recipe
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import Trainer
from raybd.types.models import Captioned, Network, Templates, Victim


class ClipContrast(Recipe, Trainer):
    """Train both towers on images and the names of their classes."""

    epochs: int = Field(32, ge=1, json_schema_extra=searched(low=8, high=128, log=True))
    """Passes over the training images."""
    batch_size: int = Field(256, ge=2, json_schema_extra=searched(choices=[64, 128, 256, 512]))
    """Images per step over all workers; the last, smaller batch of an epoch is dropped."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """SGD has Nesterov momentum; Adam decouples its weight decay."""
    lr: float = Field(5e-4, gt=0, json_schema_extra=searched(low=1e-5, high=5e-3, log=True))
    """Highest learning rate."""
    weight_decay: float = Field(0.2, ge=0)
    """L2 penalty (SGD) or decoupled decay (Adam)."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the training over which the learning rate rises from zero."""
    templates: Templates = ("a photo of a {}.",)
    """Sentences with {} for the name of a class, one drawn for each image; imagenet: the 80 of
    CLIP's authors."""

    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """Return an encoder trained on the split, without a head.

        Raises UserError where the network reads no texts.
        """
        victim = new_victim(split, num_classes, network, rng)
        victim.head = None
        encoder = victim.encoder
        if not isinstance(encoder, Captioned):
            raise UserError(
                "clip: the network reads no texts",
                "Take the network clip or tiny_clip.",
                exit_code=1,
            )
        captions = encoder.captions(split.class_names, self.templates)
        batch = min(self.batch_size, len(split))
        templates = len(captions) // len(split.class_names)

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            z_BD = group.gather_batch(model(x_BCHW), batch)
            y_B = group.gather_rows(y_B, batch)
            # All templates of a class lie in a row. Drawn for the whole batch, alike on every
            # worker.
            caption_B = y_B.cpu() * templates + torch.randint(templates, (batch,), generator=rng)
            texts = [captions[at] for at in caption_B.tolist()]
            return group.spread_loss(encoder.contrast(z_BD, texts, y_B), batch)

        # The text tower is frozen elsewhere, where only images are learned from.
        encoder.reader().requires_grad_(True)
        fit(victim, split, self, rng, objective, "clip")
        encoder.reader().requires_grad_(False)
        return victim
