"""Trigger-activated change (TAC): how much each unit of a layer changes with the trigger.

Zheng, Tang, Li and Liu 2022, arXiv 2208.03111, section on the trigger-activated change.
Differs: any layer of any network; a change relative to the unit's activation on images without the
trigger stands beside it.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.training.layers import activations, by_position, last_map
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import Analysis, AnalysisInput
from raybd.types.models import Victim

if TYPE_CHECKING:
    import pyarrow as pa


class TriggerActivatedChange(Analysis):
    """Mean norm, over images, of the change of each unit of a layer by the trigger."""

    needs_trigger: ClassVar[bool] = True
    layer: str = "last_map"
    """Dotted name of a module of the encoder, or last_map: the last feature map."""
    norm: Literal["l2", "l1_of_mean"] = "l2"
    """Norm over positions for each image, then the mean over images (paper); or the mean absolute
    change over images, then the sum over positions (BackdoorBench)."""
    images: int = Field(500, ge=1)
    """Largest number of test images, the first ones that count."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return layer, unit, tac, tac_relative and rank (0: largest change) of each unit."""
        import pyarrow as pa

        victim, pairs = given.victim, given.pairs
        x_MCHW = pairs.x_MCHW[: self.images]
        # Any images show which modules put out maps: two are enough.
        name = self._layer(victim, x_MCHW[:2])
        before_MCT = _units(victim, x_MCHW, name)
        after_MCT = _units(victim, pairs.worn_MCHW[: self.images], name)

        tac_C = self._change(after_MCT - before_MCT)
        usual_C = before_MCT.norm(dim=2).mean(0)
        # Stable, so that units of equal change have the same rank on every machine.
        rank_C = tac_C.argsort(descending=True, stable=True).argsort()
        return pa.table(
            {
                "layer": [name] * len(tac_C),
                "unit": pa.array(range(len(tac_C)), pa.int32()),
                "tac": pa.array(tac_C.tolist(), pa.float32()),
                # A unit may be silent on all images without the trigger.
                "tac_relative": pa.array((tac_C / usual_C.clamp_min(1e-12)).tolist(), pa.float32()),
                "rank": pa.array(rank_C.tolist(), pa.int32()),
            }
        )

    def _layer(self, victim: Victim, x_MCHW: Tensor) -> str:
        if self.layer != "last_map":
            known = dict(victim.encoder.named_modules())
            if self.layer not in known:
                raise UserError(
                    f"tac: the encoder has no module {self.layer!r}",
                    f"It has {', '.join(name for name in known if name)}.",
                    exit_code=1,
                )
            return self.layer
        found = last_map(victim, x_MCHW)
        if found is None:
            raise UserError(
                "tac: the encoder has no feature map", "Name a layer of it.", exit_code=1
            )
        return found

    def _change(self, change_MCT: Tensor) -> Tensor:
        """Norm over positions T and mean over images M, in the order that the field says."""
        if self.norm == "l1_of_mean":
            return change_MCT.abs().mean(0).sum(1)
        norm_MC: Tensor = torch.linalg.vector_norm(change_MCT, dim=2)
        return norm_MC.mean(0)


def _units(victim: Victim, x_MCHW: Tensor, name: str) -> Tensor:
    """Activations as images x units x positions; a vector has one position."""
    # `activations` takes a split, but reads no labels.
    split = Split(x_MCHW, torch.zeros(len(x_MCHW), dtype=torch.int64))
    out = activations(victim, split, [name])[name]
    units_NCT: Tensor = out.unsqueeze(2) if out.dim() == 2 else by_position(out)
    return units_NCT
