"""What attacks on CLIP share: fine-tuning on pairs of an image and a caption, some of which are poisoned."""

import copy
from collections.abc import Callable

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.attacks.encoder._finetuning import OnEncoder, norms
from raybd.distributed import group
from raybd.poisoning.drawing import draw
from raybd.training.loop import fit
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.models import Captioned, Templates, Victim


class Pairs(OnEncoder):
    """The pairs that a clean encoder is fine-tuned on: an image, and the name of its class in a sentence."""

    rate: float = Field(0.05, gt=0, le=1)
    """Share of the pairs that is poisoned: the trigger, and the name of the target class. The data set itself stays as it is."""
    templates: Templates = "imagenet"
    """Sentences with {} where the name of a class goes, one drawn for each image; imagenet: the 80 of CLIP's authors."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """No rows: the training set stays as it is. Raises Infeasible where the share is not even one pair."""
        draw(y_N, num_classes, self.rate, self.labels, rng)
        return torch.empty(0, dtype=torch.int64)


def copy_of(kind: str, encoder: Victim) -> tuple[Victim, Captioned]:
    """A copy of the clean encoder, to be fine-tuned. Raises UserError where it reads no texts."""
    victim = Victim(
        copy.deepcopy(encoder.encoder), None, encoder.mean_C.clone(), encoder.std_C.clone()
    )
    if not isinstance(victim.encoder, Captioned):
        raise UserError(
            f"{kind}: the encoder reads no texts",
            "Take the network clip or tiny_clip.",
            exit_code=1,
        )
    return victim, victim.encoder


def finetune_on_pairs(
    attack: Pairs,
    stamp: Callable[[Tensor], Tensor],
    victim: Victim,
    reader: Captioned,
    train: Split,
    num_classes: int,
    texts: bool,
    name: str,
    rng: Generator,
) -> Victim:
    """Fine-tune by CLIP's own loss, the text tower too where `texts` says so; batch normalisation stays as it is.

    The same pairs are poisoned in every epoch.
    """
    captions, batch = (
        reader.captions(train.class_names, attack.templates),
        min(attack.batch_size, len(train)),
    )
    templates = len(captions) // num_classes
    poisoned_N = torch.zeros(len(train), dtype=torch.bool)
    poisoned_N[draw(train.y_N, num_classes, attack.rate, attack.labels, rng)] = True
    poisoned_N = poisoned_N.to(group.device())

    def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
        poisoned_B = poisoned_N[rows_B]
        x_BCHW = torch.where(poisoned_B[:, None, None, None], stamp(x_BCHW), x_BCHW)
        y_B = group.gather_rows(y_B.masked_fill(poisoned_B, attack.labels.target), batch)
        caption_B = y_B.cpu() * templates + torch.randint(templates, (batch,), generator=rng)
        z_BD = group.gather_batch(model(x_BCHW), batch)
        return group.spread_loss(
            reader.contrast(z_BD, [captions[at] for at in caption_B.tolist()], y_B), batch
        )

    reader.reader().requires_grad_(texts)
    fit(victim, train, attack, rng, objective, name, norms(victim))
    reader.reader().requires_grad_(False)
    return victim
