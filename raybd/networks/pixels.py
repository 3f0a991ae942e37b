"""Pixels: the image itself as its embedding; the baseline of every encoder.

No paper; nearest neighbours on pixels are the usual baseline, as in Krizhevsky 2009, "Learning
Multiple Layers of Features".
Differs: normalised by channel, inside the victim, like what other networks see.
"""

from pydantic import Field
from torch import nn

from raybd.networks._imagenet import Resize
from raybd.types.models import Network


class Pixels(Network):
    """Flattened images; nothing to train, so that a probe stands on it without a source."""

    side: int = Field(32, ge=1, le=256)
    """Side that every image is resized to, in pixels; an embedding has three times its
    square values."""

    @property
    def starts_pretrained(self) -> bool:
        """It has no weights, so that nothing needs to be trained."""
        return True

    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return an encoder without parameters, and a head, for any image size."""
        # Resized, so that embeddings of all data sets have one width.
        return nn.Sequential(Resize(self.side), nn.Flatten()), nn.Linear(
            3 * self.side**2, num_classes
        )
