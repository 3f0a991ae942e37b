"""What probes share: the frozen encoder under them, and its embeddings."""

import copy

from torch import Generator, Tensor

from raybd.training.inference import infer
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.models import Network, Victim


def frozen(
    start: Victim | None, split: Split, num_classes: int, network: Network, rng: Generator
) -> tuple[Victim, Tensor]:
    """Return an encoder without a head, and its embeddings z_ND of the split.

    The encoder is that of `start`, or has the network's own pretrained weights.
    """
    start = start if start is not None else new_victim(split, num_classes, network, rng)
    # A copy, because `start` belongs to the caller.
    victim = Victim(
        copy.deepcopy(start.encoder), None, start.mean_C.clone(), start.std_C.clone()
    ).eval()
    z_ND = infer(victim, split.x_NCHW, victim.embed)
    return victim.cpu(), z_ND
