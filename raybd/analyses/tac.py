"""Trigger-activated change (TAC): how much each unit of a layer changes with the trigger.

Zheng, Tang, Li and Liu 2022, arXiv 2208.03111, section on the trigger-activated change.
Differs: any layer of any network, or all of them; a change relative to the unit's activation on
images without the trigger stands beside it.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from torch import Generator

from raybd.analyses._units import changes, first_pairs, floats, layers_of
from raybd.types.methods import Analysis, AnalysisInput

if TYPE_CHECKING:
    import pyarrow as pa


class TriggerActivatedChange(Analysis):
    """Mean norm, over images, of the change of each unit of a layer by the trigger."""

    needs_trigger: ClassVar[bool] = True
    looks_at_twin: ClassVar[bool] = True
    layer: str = "last_map"
    """Dotted name of a module of the encoder, last_map (the last feature map), features (the
    embedding), or all: each convolution, linear layer and normalisation."""
    norm: Literal["l2", "l1_of_mean"] = "l2"
    """Norm over positions for each image, then the mean over images (paper); or the mean absolute
    change over images, then the sum over positions (BackdoorBench)."""
    images: int = Field(500, ge=1)
    """Largest number of test images, the first ones that count."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return layer, unit, tac, tac_relative and rank (0: largest change) of each unit.

        Ranks are within a layer. Raises UserError if the encoder has no such layer.
        """
        import pyarrow as pa

        pairs = first_pairs("tac", given.pairs, self.images)
        names = layers_of("tac", given.victim, pairs.x_MCHW, self.layer)
        # A mean over images of sums over positions is a sum of means.
        power = 2 if self.norm == "l2" else 1
        found = changes(given.victim, pairs.x_MCHW, pairs.worn_MCHW, names, power)

        parts = []
        for name, (tac_C, usual_C) in found.items():
            # Stable, so that units of equal change have the same rank on every machine.
            rank_C = tac_C.argsort(descending=True, stable=True).argsort()
            columns = {
                "layer": [name] * len(tac_C),
                "unit": pa.array(range(len(tac_C)), pa.int32()),
                "tac": floats(tac_C),
                # A unit may be silent on all images without the trigger.
                "tac_relative": floats(tac_C / usual_C.clamp_min(1e-12)),
                "rank": pa.array(rank_C.tolist(), pa.int32()),
            }
            parts.append(pa.table(columns))
        return pa.concat_tables(parts)
