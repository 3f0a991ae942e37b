"""Maps that explain outputs on pairs of images, and how much of each lies within the trigger."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from raybd.analyses._needs import need_head, need_pairs
from raybd.distributed import group
from raybd.training.inference import infer
from raybd.types.methods import AnalysisInput

if TYPE_CHECKING:
    import pyarrow as pa

Explain = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""(x_1CHW uint8, class_2, seed) -> the map of each class, 2 x C x H x W, and a number for each."""
OUTPUTS = ("predicted", "wanted")
"""The classes whose logits are explained: what the victim says, and what the attacker wants."""


@dataclass(frozen=True)
class PairMaps:
    """Maps of R rows: each pair without the trigger, then each with it, two classes each."""

    index_R: Tensor
    """Row of the pair."""
    stamped_R: Tensor
    class_R: Tensor
    map_RHW: Tensor
    """Summed over channels."""
    mass_R: Tensor
    """Share of the absolute values that lies where the trigger changes the image; NaN: all zero."""
    number_R: Tensor
    trigger_RHW: Tensor
    """Where the trigger changes the image of the pair."""

    def columns(self) -> "dict[str, pa.Array | list[str]]":
        """Return the columns that all tables of maps have."""
        import pyarrow as pa

        height, width = self.map_RHW.shape[1:]
        rows = len(self.index_R)
        area_R = self.trigger_RHW.flatten(1).double().mean(1)
        return {
            "index": pa.array(self.index_R.tolist(), pa.int32()),
            "stamped": pa.array(self.stamped_R.tolist(), pa.bool_()),
            "output": [*OUTPUTS] * (rows // 2),
            "class": pa.array(self.class_R.tolist(), pa.int32()),
            "trigger_mass": pa.array(numbers(self.mass_R), pa.float32()),
            "trigger_area": pa.array(area_R.tolist(), pa.float32()),
            "height": pa.array([height] * rows, pa.int32()),
            "width": pa.array([width] * rows, pa.int32()),
            "map": pa.array(list(self.map_RHW.flatten(1).half().numpy()), pa.list_(pa.float16())),
        }


def pair_maps(
    tool: str, given: AnalysisInput, images: int, rng: Generator, explain: Explain
) -> PairMaps:
    """Explain both outputs on some pairs, without and with the trigger, one image at a time.

    Workers share the images. Each image has a seed of its own, so that their number plays no part.
    Raises Infeasible for a victim without a head, UserError if no pair is there.
    """
    victim, pairs = given.victim, given.pairs
    need_head(tool, victim)
    need_pairs(tool, pairs)
    chosen_M = torch.randperm(len(pairs), generator=rng)[:images].sort().values
    x_MCHW, worn_MCHW = pairs.x_MCHW[chosen_M], pairs.worn_MCHW[chosen_M]
    x_ICHW = torch.cat([x_MCHW, worn_MCHW])
    trigger_MHW = (x_MCHW != worn_MCHW).any(1)
    seed_I = torch.randint(2**31, (len(x_ICHW),), generator=rng)
    predicted_I = infer(victim, x_ICHW).argmax(1)
    class_I2 = torch.stack([predicted_I, pairs.wanted_M[chosen_M].repeat(2)], 1)

    device = group.device()
    rows = []
    for place in group.shard(torch.arange(len(x_ICHW))).tolist():
        x_1CHW = x_ICHW[place : place + 1].to(device)
        a_2CHW, number_2 = explain(x_1CHW, class_I2[place].to(device), int(seed_I[place]))
        a_2CHW = a_2CHW.detach().float()
        within = trigger_MHW[place % len(chosen_M)].to(device)
        size_2HW = a_2CHW.abs().sum(1)
        # Nothing over nothing is NaN.
        mass_2 = (size_2HW * within).sum((1, 2)) / size_2HW.sum((1, 2))
        told_22 = torch.stack([mass_2, number_2.float()], 1)
        rows.append(torch.cat([a_2CHW.sum(1).flatten(1), told_22], 1))

    size = (2, x_ICHW[0, 0].numel() + 2)
    mine = torch.stack(rows) if rows else torch.empty(0, *size, device=device)
    told = group.gather_rows(mine, len(x_ICHW)).flatten(0, 1).cpu()
    return PairMaps(
        chosen_M.repeat(2).repeat_interleave(2),
        torch.arange(len(told)) >= 2 * len(chosen_M),
        class_I2.flatten(),
        told[:, :-2].unflatten(1, x_ICHW.shape[-2:]),
        told[:, -2],
        told[:, -1],
        trigger_MHW.repeat(2, 1, 1).repeat_interleave(2, 0),
    )


def numbers(value_R: Tensor) -> list[Any]:
    """Return numbers, None where there is none."""
    return [None if math.isnan(value) else value for value in value_R.tolist()]
