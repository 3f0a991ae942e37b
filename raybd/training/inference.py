"""Batched inference: a victim over many images."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from raybd.distributed import group
from raybd.training.precision import bf16
from raybd.types.data import Split
from raybd.types.models import Victim


@torch.no_grad()
def infer(
    victim: nn.Module,
    x_NCHW: Tensor,
    output: Callable[[Tensor], Tensor] | None = None,
    exact: bool = True,
    batch_size: int = 500,
) -> Tensor:
    """Return `output` of all images, in eval mode, as float32 on the CPU.

    `output` takes x_BCHW (uint8) and is the victim itself unless given. The images are shared
    between the workers, and every worker gets all rows. `exact=False` allows bf16 where the
    hardware has it. Leaves the victim on the device, in eval mode.
    """
    device = group.device()
    victim = victim.to(device).eval()
    output = output or victim
    out_N = torch.empty(0)
    # Rows go into one tensor: a list of batches, concatenated, would hold all of them twice.
    mine = len(group.shard(torch.arange(len(x_NCHW))))
    start = 0
    with bf16(device, not exact):
        for rows_B in group.batches(len(x_NCHW), batch_size):
            x_BCHW = group.to_device(x_NCHW[rows_B])
            part_B = output(x_BCHW.contiguous(memory_format=torch.channels_last)).float()
            if not start:  # the shape of an output is known from the first batch on
                out_N = part_B.new_empty((mine, *part_B.shape[1:]))
            out_N[start : start + len(part_B)] = part_B
            start += len(part_B)
    # Moved to the CPU last: the backend of a group of GPUs moves no tensors of the CPU.
    return group.gather_rows(out_N, len(x_NCHW)).cpu()


def embeddings(victim: Victim, split: Split) -> Tensor:
    """Return z_ND of a split's images: those that an earlier stage stored with it, or new ones."""
    return infer(victim, split.x_NCHW, victim.embed) if split.z_ND is None else split.z_ND


def logits(victim: Victim, split: Split) -> Tensor:
    """Return logits_NK of a split's images: as an earlier stage computed them, or computed now."""
    return infer(victim, split.x_NCHW) if split.logits_NK is None else split.logits_NK
