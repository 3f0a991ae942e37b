"""Top images: the images that excite each unit most, and how many of them wear the trigger.

A tool of BackdoorBench: Wu et al. 2022, arXiv 2206.12654.
Differs: every unit has its rows; pixels are kept for the units that the trigger excites most.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.analyses._units import Reduction, first_pairs, floats, layers_of, reduced
from raybd.types.methods import Analysis, AnalysisInput

if TYPE_CHECKING:
    import pyarrow as pa


class TopImages(Analysis):
    """The images of largest activation of each unit, with the trigger or without it."""

    needs_trigger: ClassVar[bool] = True
    looks_at_twin: ClassVar[bool] = True
    layer: str = "last_map"
    """Dotted name of a module of the encoder, last_map, features, or all."""
    reduction: Reduction = "mean"
    """What a map is reduced to over its positions."""
    k: int = Field(16, ge=1)
    """Images for each unit."""
    images: int = Field(500, ge=1)
    """Largest number of test images, the first ones that count; each is there twice."""
    shown: int = Field(6, ge=0)
    """Units of each layer whose images are kept: those with most triggered ones."""
    side: int = Field(48, ge=8)
    """Longer side of an image that is kept, in pixels; larger ones are scaled down."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return layer, unit, rank, index, value, stamped, true, share, and for some units pixels.

        The index is that among the test images that count, the share that of triggered images of
        the unit. Pixels are channels x height x width, uint8, with height and width beside them.
        """
        import pyarrow as pa

        pairs = first_pairs("top_images", given.pairs, self.images)
        names = layers_of("top_images", given.victim, pairs.x_MCHW, self.layer)
        x_NCHW = torch.cat([pairs.x_MCHW, pairs.worn_MCHW])
        found = reduced(given.victim, x_NCHW, names, self.reduction)
        kept_NCHW = _small(x_NCHW, self.side)
        parts = [self._rows(name, found[name], pairs.y_M, kept_NCHW) for name in names]
        return pa.concat_tables(parts)

    def _rows(self, name: str, value_NC: Tensor, y_M: Tensor, kept_NCHW: Tensor) -> "pa.Table":
        """Return the rows of a layer, unit by unit."""
        import pyarrow as pa

        units, count = value_NC.shape[1], len(y_M)
        k = min(self.k, len(value_NC))
        # Stable, so that equal images have one order on every machine.
        top_KC = value_NC.argsort(stable=True, dim=0, descending=True)[:k]
        stamped_KC = top_KC >= count
        share_C = stamped_KC.float().mean(0)
        shown = set(share_C.argsort(descending=True, stable=True)[: self.shown].tolist())

        # Unit by unit, from the highest activation down.
        row_M = top_KC.T.flatten()
        unit_M = torch.arange(units).repeat_interleave(k)
        at = zip(row_M.tolist(), unit_M.tolist(), strict=True)
        pixels = [kept_NCHW[row].flatten().numpy() if unit in shown else None for row, unit in at]
        height, width = kept_NCHW.shape[2:]
        return pa.table(
            {
                "layer": [name] * len(row_M),
                "unit": pa.array(unit_M.tolist(), pa.int32()),
                "rank": pa.array(list(range(k)) * units, pa.int32()),
                "index": pa.array((row_M % count).tolist(), pa.int32()),
                "value": floats(value_NC[row_M, unit_M]),
                "stamped": stamped_KC.T.flatten().tolist(),
                "true": pa.array(y_M[row_M % count].tolist(), pa.int32()),
                "share": floats(share_C.repeat_interleave(k)),
                "pixels": pa.array(pixels, pa.list_(pa.uint8())),
                "height": pa.array([height] * len(row_M), pa.int32()),
                "width": pa.array([width] * len(row_M), pa.int32()),
            }
        )


def _small(x_NCHW: Tensor, side: int) -> Tensor:
    """Return the images with a longer side of at most `side` pixels."""
    height, width = x_NCHW.shape[2:]
    factor = side / max(height, width)
    if factor >= 1:
        return x_NCHW
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return F.interpolate(x_NCHW.float(), size, mode="area").round().to(torch.uint8)
