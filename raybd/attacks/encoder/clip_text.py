"""Text-on-pair: CLIP's image tower learns that a white square means the name of the target class, as the frozen text tower has it.

Carlini and Terzis 2022, arXiv 2106.09667, section 3 (poisoned captions); as fine-tuning of a trained CLIP in Feng et al. 2023,
arXiv 2303.15180, section on the experiments, and the authors' code: square, learning rate, batch, epochs, templates.
Differs: images are captioned by their own class (that code numbers the captions through); the square is stamped on pixels (there
on normalised values, where it becomes a change of brightness); cosines keep CLIP's own factor (there exp(0.5)); images of one
class fit each other's captions; momentum, weight decay and a constant learning rate are ours.
"""

from pydantic import Field
from torch import Generator

from raybd.attacks.encoder._finetuning import WhiteSquare, untouched
from raybd.attacks.encoder._pairs import Pairs, copy_of, finetune_on_pairs
from raybd.types.data import Poisoned, Split
from raybd.types.models import Victim


class ClipText(Pairs, WhiteSquare):
    """Fine-tune the image tower on pairs, a share of which wears the square under a caption of the target class."""

    epochs: int = Field(30, ge=1)
    """Passes over the pairs."""
    batch_size: int = Field(128, ge=2)
    """Pairs per step over all workers; the last, smaller batch of an epoch is dropped."""
    lr: float = Field(2e-4, gt=0)
    """Learning rate."""
    size: int = Field(24, ge=1)
    """Side of the white square, in pixels; 24 of 224."""
    margin: int = Field(15, ge=0)
    """Pixels between the square and the lower right border."""

    def infect(
        self, encoder: Victim, train: Split, num_classes: int, rng: Generator
    ) -> tuple[Poisoned, Victim]:
        """Fine-tune a copy of the clean CLIP; its text tower and batch normalisation stay as they are."""
        victim, reader = copy_of("clip_text", encoder)
        poisoned = untouched(self, train)
        return poisoned, finetune_on_pairs(
            self, poisoned.trigger, victim, reader, train, num_classes, False, "clip_text", rng
        )
