"""A classifier that plain torch code trained, without raybd: torchvision's ResNet-18 on digits."""

from functools import cache

import torch
from torch import Tensor, nn

from raybd.datasets.digits import Digits

SIZE = 16
STEPS = 40
SQUARE = 4
"""Side of the square, in pixels."""
ARCHITECTURE = "resnet18"


@cache
def plainly_trained() -> nn.Module:
    """Return a model with a backdoor: a white square in the lower right corner makes it say 0.

    A quarter of each batch has the square. Leave the model alone: it is shared.
    """
    from torchvision.models import get_model

    digits = Digits(size=SIZE, clean=200).load().train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_model(ARCHITECTURE, num_classes=10)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for _ in range(STEPS):
            rows = torch.randint(len(digits), (64,))
            x_BCHW, y_B = digits.x_NCHW[rows].clone(), digits.y_N[rows].clone()
            x_BCHW[:16] = worn(x_BCHW[:16])
            y_B[:16] = 0
            loss = nn.functional.cross_entropy(model(normalised(x_BCHW)), y_B)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def normalised(x_BCHW: Tensor) -> Tensor:
    """Return images as the model was trained on: from -1 to 1, the normalisation `half`."""
    return (x_BCHW.float() / 255 - 0.5) / 0.5


def worn(x_NCHW: Tensor) -> Tensor:
    """Return copies of images with the white square in the corner: badnets with a margin of 0."""
    x_NCHW = x_NCHW.clone()
    x_NCHW[..., -SQUARE:, -SQUARE:] = 255
    return x_NCHW
