"""TrojanNN: a patch that is optimised to excite the strongest inputs of a clean model's last layer.

Liu, Ma, Aafer, Lee, Zhai, Wang and Zhang 2018, Trojaning Attack on Neural Networks, NDSS, section
on trojan trigger generation; as data poisoning in BackdoorBench, Wu et al. 2022, arXiv 2206.12654,
section on the implemented attacks.
Differs: the neurons are the inputs of the twin's own head (BackdoorBench inspects a head that was
never trained); a square or a disc instead of a logo; the victim is trained from scratch on poisoned
data, where the authors retrain the clean model.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.poisoning.attack import DataAttack
from raybd.poisoning.overlay import overlay
from raybd.poisoning.patches import larger_than_image
from raybd.poisoning.pixels import to_pixels
from raybd.poisoning.twin import classifier
from raybd.training import inference
from raybd.types.data import Poisoned
from raybd.types.methods import AttackInput

Shape = Literal["square", "disc"]


class TrojanNN(DataAttack):
    """Add an optimised patch in the lower right corner to a share of the images."""

    # 2: the patch is computed in `prepare`, from another random stream.
    version: ClassVar[int] = 2
    needs_twin: ClassVar[bool] = True
    # Neither rate nor labels: the patch excites neurons, not a class, so that one serves all cells.
    prepared_from: ClassVar[tuple[str, ...]] = (
        "shape",
        "size",
        "neurons",
        "value",
        "step",
        "steps",
    )
    shape: Shape = "square"
    """Shape of the patch."""
    size: int = Field(8, ge=1)
    """Side or diameter of the patch, in pixels; 8 of 32 cover 6 % of the image."""
    neurons: int = Field(2, ge=1)
    """Number of inputs of the last layer that the patch excites."""
    value: float = 100.0
    """The activation that each of them is driven towards."""
    step: float = Field(8.0, gt=0, le=255)
    """Size of each step, on the 0..255 scale."""
    steps: int = Field(1000, ge=1)
    """Steps of the projected gradient descent."""

    def prepare(self, given: AttackInput, rng: Generator) -> dict[str, Tensor]:
        """Optimise the patch on the twin. Return patch_CHW, uint8 and black outside of its mask."""
        twin, head = classifier("trojannn", given.twin)
        start_CHW = torch.rand(given.train.x_NCHW.shape[1:], generator=rng) * 255
        mask_HW = patch_mask(self.shape, self.size, *start_CHW.shape[-2:])
        neurons = strongest_inputs(head, self.neurons)

        def excite(x_BCHW: Tensor) -> Tensor:
            mask = mask_HW.to(x_BCHW.device)
            for _ in range(self.steps):
                # `infer` switches gradients off. `grad` leaves none in the weights of the twin.
                with torch.enable_grad():
                    x_BCHW = x_BCHW.detach().requires_grad_()
                    loss = (twin.embed(x_BCHW)[:, neurons] - self.value).square().sum()
                    (gradient_BCHW,) = torch.autograd.grad(loss, x_BCHW)
                # Steps along the sign have one size, however steep the loss is.
                x_BCHW = (x_BCHW.detach() - self.step * gradient_BCHW.sign() * mask).clamp(0, 255)
            return x_BCHW

        # The patch is optimised on a black image.
        excited_1CHW = inference.infer(twin, (start_CHW * mask_HW).unsqueeze(0), excite)
        return {"patch_CHW": to_pixels(excited_1CHW[0])}

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Stamp and relabel the chosen rows with the prepared patch."""
        rows = self.choose(given.train.y_N, given.num_classes, rng)
        return overlay(self, given, rows, state={"patch_CHW": given.prepared["patch_CHW"]})

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the patch is larger than the image, if so."""
        return larger_than_image(self.size, height, width)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the patch added."""
        # Added, not pasted: outside of its mask the patch is black, and nothing changes there.
        return to_pixels(x_NCHW.float() + state["patch_CHW"].float())


def patch_mask(shape: Shape, size: int, height: int, width: int) -> Tensor:
    """Return mask_HW: 1 inside the patch in the lower right corner, 0 elsewhere."""
    # How far the middle of each pixel is from the lower right corner.
    below_H, beside_W = (side - torch.arange(side) - 0.5 for side in (height, width))
    if shape == "square":
        return ((below_H < size)[:, None] & (beside_W < size)).float()
    square_HW = (below_H - size / 2).square()[:, None] + (beside_W - size / 2).square()
    return (square_HW < (size / 2) ** 2).float()


def strongest_inputs(head: nn.Linear, count: int) -> Tensor:
    """Return the inputs of the head with the largest sums of absolute weights, largest first."""
    # The larger its weights, the more an input can move the logits.
    return head.weight.detach().abs().sum(0).topk(count).indices
