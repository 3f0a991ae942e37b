"""Grad-CAM: the places of a feature map to which an output is due, without and with the trigger.

Selvaraju et al. 2017, arXiv 1610.02391, section 3. Captum's.
Differs: how well the map meets the pixels that the trigger changes stands beside it. BackdoorBench
calls FullGrad by this name.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.analyses._needs import map_layer, need_library, need_pairs
from raybd.analyses._pair_maps import PairMaps, numbers, pair_maps
from raybd.distributed import group
from raybd.types.methods import Analysis, AnalysisInput

if TYPE_CHECKING:
    import pyarrow as pa


class GradCam(Analysis):
    """Weigh the channels of a feature map by their mean gradient, and show where the sum is > 0."""

    needs_trigger: ClassVar[bool] = True
    looks_at_twin: ClassVar[bool] = True
    layer: str = "last_map"
    """Dotted name of a module of the encoder, or last_map: the last feature map, which for a
    transformer is that of its patches."""
    images: int = Field(16, ge=1)
    """Largest number of pairs of images."""
    top: float = Field(0.1, gt=0, le=1)
    """Share of the pixels, those of largest value, that are compared with the trigger."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return two rows for each image without and with the trigger: predicted, wanted class.

        `trigger_mass` and `trigger_area`: as of attribution. `iou_top`: intersection over union of
        the pixels of largest value and those that the trigger changes; null where the map is zero.
        `map`: row by row, of the size of the image. Raises Infeasible for a victim without a head,
        UserError without captum or for a layer that has no map.
        """
        import pyarrow as pa

        need_library("gradcam", "captum")
        need_pairs("gradcam", given.pairs)
        name = map_layer("gradcam", given.victim, self.layer, given.pairs.x_MCHW[:2])
        victim = given.victim.to(group.device()).eval()
        module = victim.encoder.get_submodule(name)

        def explain(x_1CHW: Tensor, class_2: Tensor, seed: int) -> tuple[Tensor, Tensor]:
            from captum.attr import LayerAttribution, LayerGradCam

            x_2CHW = x_1CHW.float().expand(2, -1, -1, -1)
            coarse = LayerGradCam(victim, module).attribute(
                x_2CHW, target=class_2, relu_attributions=True
            )
            fine = LayerAttribution.interpolate(coarse, tuple(x_1CHW.shape[-2:]), "bilinear")
            return fine, torch.zeros(2, device=fine.device)

        maps = pair_maps("gradcam", given, self.images, rng, explain)
        return pa.table(
            {
                **maps.columns(),
                "layer": [name] * len(maps.index_R),
                "iou_top": pa.array(numbers(self._overlap(maps)), pa.float32()),
            }
        )

    def _overlap(self, maps: PairMaps) -> Tensor:
        """Intersection over union of the largest values and the trigger; NaN for a map of zeros."""
        map_RP, within_RP = maps.map_RHW.flatten(1), maps.trigger_RHW.flatten(1)
        count = max(1, round(self.top * map_RP.shape[1]))
        top_RP = torch.zeros_like(within_RP)
        top_RP.scatter_(1, map_RP.topk(count).indices, True)
        iou_R = (top_RP & within_RP).sum(1) / (top_RP | within_RP).sum(1)
        return iou_R.masked_fill(map_RP.amax(1) <= 0, torch.nan)
