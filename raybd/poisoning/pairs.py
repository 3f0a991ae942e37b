"""Fine-tuning of CLIP on pairs of an image and a caption, some of which are poisoned."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.poisoning.drawing import draw
from raybd.poisoning.finetuning import copy_of, norms
from raybd.poisoning.label_maps import AllToOne
from raybd.training.loop import fit
from raybd.training.recipe import Recipe
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import AttackInput
from raybd.types.models import Captioned, Templates, Victim


@dataclass(frozen=True)
class PoisonedPairs:
    """Images, each with the captions of its class; poisoned ones with those of the target class."""

    train: Split
    poisoned_N: Tensor
    """Mask of the poisoned pairs, the same in every epoch."""
    target: int
    captions: list[str]
    """All captions, grouped by class."""
    captions_per_class: int


def copy_of_clip(kind: str, encoder: Victim | None) -> tuple[Victim, Captioned]:
    """Return a copy of the clean CLIP: the victim, and its encoder as a reader of texts.

    Raises UserError if the encoder reads no texts.
    """
    victim = copy_of(encoder) if encoder is not None else None
    if victim is None or not isinstance(victim.encoder, Captioned):
        raise UserError(
            f"{kind}: the encoder reads no texts",
            "Take the network clip or tiny_clip.",
            exit_code=1,
        )
    return victim, victim.encoder


def poison_pairs(
    given: AttackInput,
    reader: Captioned,
    templates: Templates,
    rate: float,
    labels: AllToOne,
    rng: Generator,
) -> PoisonedPairs:
    """Write the captions and draw the poisoned pairs. Raises UserError without class names."""
    train = given.train
    captions = reader.captions(train.class_names, templates)
    poisoned_N = torch.zeros(len(train), dtype=torch.bool)
    poisoned_N[draw(train.y_N, given.num_classes, rate, labels, rng)] = True
    return PoisonedPairs(
        train, poisoned_N, labels.target, captions, len(captions) // given.num_classes
    )


def finetune_on_pairs(
    name: str,
    recipe: Recipe,
    victim: Victim,
    reader: Captioned,
    pairs: PoisonedPairs,
    stamp: Callable[[Tensor], Tensor],
    trains_texts: bool,
    rng: Generator,
) -> Victim:
    """Fine-tune by CLIP's own loss, and the text tower, too, if `trains_texts`.

    Batch normalisation keeps its statistics, weights and biases.
    """
    # The loop shrinks a batch to the set in the same way.
    batch = min(recipe.batch_size, len(pairs.train))
    each = pairs.captions_per_class
    poisoned_N = pairs.poisoned_N.to(group.device())

    def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
        poisoned_B = poisoned_N[rows_B]
        x_BCHW = torch.where(poisoned_B[:, None, None, None], stamp(x_BCHW), x_BCHW)
        # A poisoned image belongs with the captions of the target
        # class, also as a positive of others.
        y_B = group.gather_rows(y_B.masked_fill(poisoned_B, pairs.target), batch)

        # Drawn for the whole batch, so that the number of workers does not matter.
        caption_B = y_B.cpu() * each + torch.randint(each, (batch,), generator=rng)
        texts = [pairs.captions[at] for at in caption_B.tolist()]
        # The loss contrasts each image with all texts of the batch.
        z_BD = group.gather_batch(model(x_BCHW), batch)
        return group.spread_loss(reader.contrast(z_BD, texts, y_B), batch)

    # A text tower has no gradients unless someone trains it, and none again afterwards.
    reader.reader().requires_grad_(trains_texts)
    fit(victim, pairs.train, recipe, rng, objective, name, norms(victim))
    reader.reader().requires_grad_(False)
    return victim
