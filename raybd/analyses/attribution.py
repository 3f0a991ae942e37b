"""Attribution: the pixels to which an output of the victim is due, without and with the trigger.

Lundberg and Lee 2017, arXiv 1705.07874, and Erion et al. 2021, arXiv 1906.10670 (expected
gradients); Sundararajan, Taly and Yan 2017, arXiv 1703.01365, section 3 (integrated gradients);
Zeiler and Fergus 2014, arXiv 1311.2901 (occlusion). Captum's.
Differs: background images are the trusted ones; the share of the attribution within the trigger,
and the error of its sum, stand beside the map.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.analyses._needs import need_library
from raybd.analyses._pair_maps import numbers, pair_maps
from raybd.distributed import group
from raybd.ops.global_streams import seeded
from raybd.types.errors import UserError
from raybd.types.methods import Analysis, AnalysisInput
from raybd.types.models import Victim

if TYPE_CHECKING:
    import pyarrow as pa


class Attribution(Analysis):
    """Explain the logits of the predicted and the wanted class by the pixels of the image."""

    needs_trigger: ClassVar[bool] = True
    looks_at_twin: ClassVar[bool] = True
    method: Literal["gradient_shap", "integrated_gradients", "occlusion"] = "gradient_shap"
    """Gradients on the way from random background images, or from their mean; or what the logit
    loses where a square is replaced by the mean background image."""
    images: int = Field(16, ge=1)
    """Largest number of pairs of images."""
    background: int = Field(200, ge=1)
    """Largest number of trusted images that an image is compared with."""
    samples: int = Field(20, ge=1, le=1000)
    """Random points (gradient_shap), or points of the path (integrated_gradients)."""
    window: int = Field(4, ge=1)
    """Side of the square of occlusion, in pixels; it moves by half of it."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return two rows for each image without and with the trigger: predicted, wanted class.

        `index`: the pair. `trigger_mass`: share of the absolute attribution (in logits, by pixel
        and channel) within the pixels that the trigger changes, which are a share `trigger_area` of
        the image. `delta`: sum of the attribution minus what it should be, the logit minus that of
        the background; null for occlusion. `map`: row by row, summed over channels. Raises
        Infeasible for a victim without a head, UserError without captum or background.
        """
        import pyarrow as pa

        need_library("attribution", "captum")
        if not len(given.clean):
            raise UserError(
                "attribution: there are no trusted images to compare with",
                "Set `clean` of the data set.",
                exit_code=1,
            )
        chosen = torch.randperm(len(given.clean), generator=rng)[: self.background]
        background_NCHW = given.clean.x_NCHW[chosen].float().to(group.device())
        victim = given.victim.to(group.device()).eval()
        tell = _Teller(self, victim, background_NCHW)
        maps = pair_maps("attribution", given, self.images, rng, tell)

        columns = maps.columns()
        return pa.table(
            {
                **columns,
                "method": [self.method] * len(maps.index_R),
                "delta": pa.array(numbers(maps.number_R), pa.float32()),
            }
        )


class _Teller:
    """What explains one image."""

    def __init__(self, tool: Attribution, victim: Victim, background_NCHW: Tensor) -> None:
        self._tool = tool
        self._victim = victim
        self._background_NCHW = background_NCHW
        self._mean_1CHW = background_NCHW.mean(0, keepdim=True)
        self._usual_K: Tensor | None = None

    def __call__(self, x_1CHW: Tensor, class_2: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return the attribution to each class, and the error of its sum."""
        x_2CHW = x_1CHW.float().expand(2, -1, -1, -1)
        with seeded(seed):
            a_2CHW = self._attribution(x_2CHW, class_2)
        if self._tool.method == "occlusion":
            return a_2CHW, torch.full((2,), torch.nan, device=a_2CHW.device)

        with torch.no_grad():
            gained_2 = (self._victim(x_1CHW)[0] - self._usual())[class_2]
        return a_2CHW, a_2CHW.flatten(1).sum(1) - gained_2

    def _attribution(self, x_2CHW: Tensor, class_2: Tensor) -> Tensor:
        from captum.attr import GradientShap, IntegratedGradients, Occlusion

        tool = self._tool
        if tool.method == "gradient_shap":
            shap = GradientShap(self._victim)
            found: Tensor = shap.attribute(
                x_2CHW, self._background_NCHW, n_samples=tool.samples, target=class_2
            )
            return found
        if tool.method == "integrated_gradients":
            path = IntegratedGradients(self._victim)
            found = path.attribute(x_2CHW, self._mean_1CHW, target=class_2, n_steps=tool.samples)
            return found.float()
        channels, height, width = x_2CHW.shape[1:]
        side = min(tool.window, height, width)
        step = max(1, side // 2)
        with torch.no_grad():
            found = Occlusion(self._victim).attribute(
                x_2CHW,
                (channels, side, side),
                strides=(channels, step, step),
                baselines=self._mean_1CHW,
                target=class_2,
            )
        return found.float()

    def _usual(self) -> Tensor:
        """Return the logits that attributions start from, computed once."""
        if self._usual_K is None:
            one_start = self._tool.method == "integrated_gradients"
            start_NCHW = self._mean_1CHW if one_start else self._background_NCHW
            self._usual_K = torch.cat([self._victim(x) for x in start_NCHW.split(100)]).mean(0)
        return self._usual_K
