"""What the CLIP networks share: both towers in one encoder, and the contrast of images with their captions.

Radford et al. 2021, arXiv 2103.00020, section 2.3 and figure 3. The towers are open_clip's.
"""

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.types.errors import UserError
from raybd.types.models import Templates

Moments = tuple[tuple[float, ...], tuple[float, ...]]
_TEXTS = 256
"""Texts that are embedded at once."""
_START, _LARGEST = 1 / 0.07, 100.0
"""Factor of the cosines at the start, and at most."""


class Clip(nn.Module):
    """An image tower and a text tower: normalised x_BCHW of any size -> z_BD, whose length is not 1."""

    def __init__(
        self,
        image: nn.Module,
        text: nn.Module,
        side: int,
        tokens: Callable[[list[str]], Tensor],
        moments: Moments | None = None,
    ) -> None:
        super().__init__()
        self.image, self.side, self.tokens = image, side, tokens
        self.read = _Reader(text).requires_grad_(False)
        self.moments = moments
        """Mean and deviation of the channels that weights were made with; none without such weights."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Embeddings of images, resized to the side that the image tower takes."""
        if x_BCHW.shape[-2:] != (self.side, self.side):
            x_BCHW = F.interpolate(
                x_BCHW, (self.side, self.side), mode="bicubic", antialias=True, align_corners=False
            )
        z_BD: Tensor = self.image(x_BCHW)
        return z_BD

    def reader(self) -> nn.Module:
        """The text tower, and the factor of the cosines. Who trains them asks for their gradients, and gives that up afterwards."""
        return self.read

    def captions(self, class_names: Sequence[str], templates: Templates) -> list[str]:
        """Each name in each template, the templates of a name in a row; `imagenet`: the 80 of CLIP's authors."""
        if not class_names:
            raise UserError(
                "CLIP reads class names, and this data set has none",
                "Take a data set that names them.",
                exit_code=1,
            )
        if templates == "imagenet":
            from open_clip import OPENAI_IMAGENET_TEMPLATES

            templates = tuple(fill("{}") for fill in OPENAI_IMAGENET_TEMPLATES)
        return [
            template.replace("{}", name.replace("_", " "))
            for name in class_names
            for template in templates
        ]

    def describe(self, texts: Sequence[str]) -> Tensor:
        """z_MD of texts, whose length is not 1; what does not fit into the context is cut off."""
        device = self.read.log_factor.device
        parts = (texts[at : at + _TEXTS] for at in range(0, len(texts), _TEXTS))
        return torch.cat(
            [self.read.text(self.tokens(list(part)).to(device)).float() for part in parts]
        )

    def factor(self) -> Tensor:
        """What a cosine is multiplied by to be a logit; learned, 100 at most."""
        return self.read.log_factor.clamp(max=math.log(_LARGEST)).exp()

    def contrast(self, z_BD: Tensor, texts: Sequence[str], y_B: Tensor) -> Tensor:
        """Symmetric InfoNCE of a whole batch: of each image over all texts, of each text over all images.

        What has the label of an image is right for it, in equal shares: captions of one class fit all its images.
        """
        distinct = list(dict.fromkeys(texts))
        place = {text: at for at, text in enumerate(distinct)}
        t_BD = self.describe(distinct)[
            torch.tensor([place[text] for text in texts], device=z_BD.device)
        ]
        with torch.autocast(z_BD.device.type, enabled=False):
            logits_BB = (
                self.factor() * F.normalize(z_BD.float(), dim=1) @ F.normalize(t_BD, dim=1).T
            )
            alike_BB = (y_B[:, None] == y_B).float()
            share_BB = alike_BB / alike_BB.sum(1, keepdim=True)
            log_share_BB = F.log_softmax(logits_BB, 1) + F.log_softmax(logits_BB.T, 1)
            return -(share_BB * log_share_BB).sum(1).mean() / 2


class _Reader(nn.Module):
    """What embeds no images."""

    def __init__(self, text: nn.Module) -> None:
        super().__init__()
        self.text = text
        self.log_factor = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The factor of the cosines at the start of training."""
        nn.init.constant_(self.log_factor, math.log(_START))


def need_open_clip(kind: str) -> None:
    """Raise UserError where open_clip is missing."""
    if find_spec("open_clip") is None:
        raise UserError(f"{kind} needs open_clip", "pip install 'raybd[clip]'", exit_code=1)
