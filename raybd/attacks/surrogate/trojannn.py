"""TrojanNN: a patch that is optimised to excite the strongest inputs of a clean model's last layer.

Liu, Ma, Aafer, Lee, Zhai, Wang and Zhang 2018, Trojaning Attack on Neural Networks, NDSS, section on trojan trigger generation; as
data poisoning in BackdoorBench, Wu et al. 2022, arXiv 2206.12654, section on the implemented attacks.
Differs: the neurons are the inputs of the twin's own head (BackdoorBench inspects a head that was never trained); a square or a
disc instead of a logo; the victim is trained from scratch on poisoned data, where the authors retrain the clean model.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.drawing import draw
from raybd.poisoning.label_maps import AllToOne, Labels
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import head_of, to_pixels
from raybd.training import inference
from raybd.types.config import Config
from raybd.types.data import LabelMap, Poisoned, Split
from raybd.types.models import Victim


class TrojanNN(Config):
    """Add an optimised patch in the lower right corner to a share of the images."""

    rate: float = Field(0.1, gt=0, le=1)
    """Share of the training set that is poisoned."""
    shape: Literal["square", "disc"] = "square"
    """Shape of the patch."""
    size: int = Field(8, ge=1)
    """Side or diameter of the patch, in pixels; 8 of 32 cover 6 % of the image."""
    neurons: int = Field(2, ge=1)
    """How many inputs of the last layer the patch is to excite."""
    value: float = 100.0
    """The activation that each of them is driven towards."""
    step: float = Field(8.0, gt=0, le=255)
    """Size of each step, on the 0..255 scale."""
    steps: int = Field(1000, ge=1)
    """Steps of the projected gradient descent."""
    labels: Labels = AllToOne()
    """What happens to the labels."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Rows drawn from every class that the label map allows."""
        return draw(y_N, num_classes, self.rate, self.labels, rng)

    def poison_with_twin(
        self, train: Split, num_classes: int, twin: Victim, rng: Generator
    ) -> Poisoned:
        """Optimise the patch on the twin, then stamp and relabel the chosen rows."""
        rows = self.choose(train.y_N, num_classes, rng)
        patch_CHW = self._optimise(torch.rand(train.x_NCHW.shape[1:], generator=rng) * 255, twin)
        return overlay(train, num_classes, rows, self.stamp, self.labels, {"patch_CHW": patch_CHW})

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Copies of the images with the patch added."""
        return to_pixels(x_NCHW.float() + state["patch_CHW"].float())

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels

    def _optimise(self, start_CHW: Tensor, twin: Victim) -> Tensor:
        """The patch, uint8 and black outside of its mask, that excites the chosen neurons on an otherwise black image."""
        neurons = _strongest_inputs(twin, self.neurons)
        mask_HW = self._mask(start_CHW.shape[-1])

        def excite(x_BCHW: Tensor) -> Tensor:
            mask = mask_HW.to(x_BCHW.device)
            for _ in range(self.steps):
                with torch.enable_grad():
                    x_BCHW = x_BCHW.detach().requires_grad_()
                    loss = (twin.embed(x_BCHW)[:, neurons] - self.value).square().sum()
                    (gradient_BCHW,) = torch.autograd.grad(loss, x_BCHW)
                x_BCHW = (x_BCHW.detach() - self.step * gradient_BCHW.sign() * mask).clamp(0, 255)
            return x_BCHW

        return to_pixels(inference.infer(twin, (start_CHW * mask_HW).unsqueeze(0), excite)[0])

    def _mask(self, side: int) -> Tensor:
        """1 inside the patch, 0 elsewhere."""
        from_corner = side - torch.arange(side) - 0.5
        if self.shape == "square":
            inside = from_corner < self.size
            return (inside[:, None] & inside).float()
        square = (from_corner - self.size / 2).square()
        return (square[:, None] + square < (self.size / 2) ** 2).float()


def _strongest_inputs(twin: Victim, count: int) -> Tensor:
    """The inputs of the head whose weights are largest in sum of absolute values, strongest first."""
    return head_of("trojannn", twin).weight.detach().abs().sum(0).topk(count).indices
