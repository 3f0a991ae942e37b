"""Feature maps of one image without and with the trigger.

A tool of BackdoorBench: Wu et al. 2022, arXiv 2206.12654.
Differs: both images, so that the change can be seen.
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Generator

from raybd.analyses._units import layers_of
from raybd.training.layers import activations
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import Analysis, AnalysisInput

if TYPE_CHECKING:
    import pyarrow as pa


class FeatureMap(Analysis):
    """All channels of a layer for one test image, without and with the trigger."""

    needs_trigger: ClassVar[bool] = True
    looks_at_twin: ClassVar[bool] = True
    layer: str = "last_map"
    """Dotted name of a module of the encoder that puts out maps, or last_map."""
    image: int = Field(0, ge=0)
    """Which of the test images that count, from 0."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return layer, unit, stamped, change, h, w and the map (h x w, half) of each channel.

        The change is the Euclidean norm of the difference of the two maps of a channel. Raises
        UserError if there is no such image, or the layer puts out no map.
        """
        import pyarrow as pa

        pairs = given.pairs
        if self.image >= len(pairs):
            raise UserError(
                f"feature_map: image {self.image} of {len(pairs)} test images that count",
                "Lower image, or take more test images.",
                exit_code=1,
            )
        both_BCHW = torch.stack([pairs.x_MCHW[self.image], pairs.worn_MCHW[self.image]])
        (name,) = layers_of("feature_map", given.victim, both_BCHW, self.layer)
        split = Split(both_BCHW, torch.zeros(2, dtype=torch.int64))
        maps = activations(given.victim, split, [name])[name] if name != "features" else None
        if maps is None or maps.dim() != 4:
            raise UserError(
                f"feature_map: {name} puts out no maps", "Name a layer that does.", exit_code=1
            )
        _, channels, height, width = maps.shape
        change_C = (maps[1] - maps[0]).flatten(1).norm(dim=1)
        # Half precision ends at 65504: beyond, a picture is saturated, and not infinite.
        rows = maps.flatten(2).clamp(-65504, 65504).half().flatten(0, 1).numpy()
        return pa.table(
            {
                "layer": [name] * (2 * channels),
                "unit": pa.array([*range(channels)] * 2, pa.int32()),
                "stamped": [False] * channels + [True] * channels,
                "change": pa.array(change_C.tolist() * 2, pa.float32()),
                "h": pa.array([height] * (2 * channels), pa.int32()),
                "w": pa.array([width] * (2 * channels), pa.int32()),
                "map": pa.array(list(rows.astype(np.float16)), pa.list_(pa.float16())),
            }
        )
