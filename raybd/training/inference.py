"""Batched inference: a victim over many images."""

from collections.abc import Callable

import torch
from torch import Tensor

from raybd.distributed import group
from raybd.training.precision import bf16
from raybd.types.data import Split
from raybd.types.models import Victim


@torch.no_grad()
def infer(
    victim: Victim,
    x_NCHW: Tensor,
    output: Callable[[Tensor], Tensor] | None = None,
    exact: bool = True,
    batch_size: int = 500,
) -> Tensor:
    """`output` (the victim itself, unless given: x_BCHW uint8 -> something_B...) over all images, in eval mode, float32 on the CPU.

    Sharded over the workers; every worker gets all rows. `exact=False` allows bf16 where the hardware has it.
    """
    device = group.device()
    victim = victim.to(device).eval()
    output, out_N = output or victim, torch.empty(0)
    mine, start = len(group.shard(torch.arange(len(x_NCHW)))), 0
    with bf16(device, not exact):
        for rows_B in group.batches(len(x_NCHW), batch_size):
            x_BCHW = group.send(x_NCHW[rows_B])
            part_B = output(x_BCHW.contiguous(memory_format=torch.channels_last)).float()
            if not start:
                out_N = part_B.new_empty((mine, *part_B.shape[1:]))
            out_N[start : start + len(part_B)] = part_B
            start += len(part_B)
    return group.gather_rows(out_N, len(x_NCHW)).cpu()


def embeddings(victim: Victim, split: Split) -> Tensor:
    """z_ND of a split's images: as they came with it from a stage before, or computed now."""
    return infer(victim, split.x_NCHW, victim.embed) if split.z_ND is None else split.z_ND


def logits(victim: Victim, split: Split) -> Tensor:
    """Return logits_NK of a split's images: as an earlier stage computed them, or computed now."""
    return infer(victim, split.x_NCHW) if split.logits_NK is None else split.logits_NK
