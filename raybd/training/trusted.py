"""What a defender can measure about his own training: accuracy on images that he trusts."""

from raybd.metrics.classification import clean_accuracy, predictions
from raybd.training.inference import infer
from raybd.types.data import Split
from raybd.types.models import Victim

MOST_LOST = 0.1
"""Accuracy that a defense may lose on trusted images before it warns, as a share of the images."""
FEWEST = 50
"""Trusted images below which no loss is reported: one tenth of them is less than chance moves."""


def trusted_accuracy(victim: Victim, clean: Split) -> float | None:
    """Return the accuracy on trusted images, 0..1.

    None for an encoder without a head, or without images.
    """
    if victim.head is None or not len(clean):
        return None
    return clean_accuracy(predictions(infer(victim, clean.x_NCHW)), clean.y_N)


def lost_accuracy(
    name: str, before: float | None, after: float | None, images: int, than: str
) -> str | None:
    """Return a warning if a defense has lost more than MOST_LOST on its trusted images.

    `than` says what had the accuracy `before`. None: it has not, or nothing was measured.
    """
    if before is None or after is None or images < FEWEST or before - after <= MOST_LOST:
        return None
    return (
        f"{name}: accuracy on {images} trusted images is {after:.2f}, and {before:.2f} {than}:"
        " the defense has destroyed what the network could do"
    )
