"""The weights that a network brings with it, under the preprocessing that they need."""

from torch import Generator

from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.models import Network, Victim


def published(
    kind: str, split: Split, num_classes: int, network: Network, rng: Generator
) -> Victim:
    """Return an encoder with its published weights, without a head.

    Images are normalised by the moments that it names, or else by those of the split. Raises
    UserError where the network has no weights of its own.
    """
    # Random weights would pass for published ones without a word.
    if not network.starts_pretrained:
        raise UserError(
            f"{kind}: the network has no weights of its own",
            "Take one with the field `pretrained`, and set it.",
            exit_code=1,
        )
    victim = new_victim(split, num_classes, network, rng)
    # The head is drawn at random, unlike the encoder.
    victim.head = None
    return victim.eval()
