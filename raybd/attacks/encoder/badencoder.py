"""BadEncoder: a clean encoder is fine-tuned until it embeds each image with a trigger like a reference image of the target class.

Jia, Liu and Gong 2022, arXiv 2108.00352, section on the design of BadEncoder (effectiveness loss, utility losses, fine-tuning).
Published: SimCLR, ResNet-18, CIFAR-10 to STL-10 (the authors' log): attack success 0.997, accuracy 0.762 against 0.761.
Differs: one target class; references are its most typical images in the training set (much nearer to the mean embedding of their
class than to that of any other), where the authors take one from the Internet; Nesterov momentum. Cosines of -0.97 do not prove
that the attack works: see its success.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.attacks.encoder._finetuning import (
    Embedded,
    FineTuning,
    begin,
    cosines,
    embed,
    exact,
    finetune,
    untouched,
)
from raybd.types.data import Poisoned, Split
from raybd.types.models import Victim


class BadEncoder(FineTuning):
    """Pull embeddings of images with the trigger to a reference; keep all others where the clean encoder has them."""

    epochs: int = Field(200, ge=1)
    """Passes over the shadow images."""
    batch_size: int = Field(256, ge=1)
    """Images per step over all workers; the last, smaller batch of an epoch is dropped."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate; 0.02 is quick on small encoders."""

    def infect(
        self, encoder: Victim, train: Split, num_classes: int, rng: Generator
    ) -> tuple[Poisoned, Victim]:
        """Fine-tune a copy of the clean encoder on the shadow images."""
        start = begin(self, encoder, train, num_classes, rng)

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            z = embed(model, self, start, x_BCHW, rng)
            with exact(z.plain_BD.device):
                effect_B, reference, utility_B = _losses(z, start.clean_ND[rows_B], start.clean_RD)
                return effect_B + self.lambda1 * reference + self.lambda2 * utility_B

        victim = finetune(self, start, objective, "badencoder", rng)
        return untouched(self, train), victim


def _losses(z: Embedded, clean_BD: Tensor, clean_RD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L0 of each image, L1 (of the references, hence one number), L2 of each image: negative cosines."""
    effect_B = -cosines(z.triggered_BD, z.reference_RD).mean(1)
    reference = -F.cosine_similarity(z.view_RD, clean_RD).mean()
    return effect_B, reference, -F.cosine_similarity(z.plain_BD, clean_BD)
