"""The CLIP networks: an encoder of two towers, and the contrast of images with their captions.

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
TEXTS_AT_ONCE = 256
"""Texts that are embedded at a time."""
INITIAL_FACTOR = 1 / 0.07
MAX_FACTOR = 100.0
"""First and largest value of the factor that turns cosines into logits, as in the paper."""


class Clip(nn.Module):
    """An image tower and a text tower.

    Embeds normalised x_BCHW of any size as z_BD, whose length is not 1.
    """

    def __init__(
        self,
        image: nn.Module,
        text: nn.Module,
        side: int,
        tokens: Callable[[list[str]], Tensor],
        moments: Moments | None = None,
    ) -> None:
        super().__init__()
        self.image = image
        self.side = side
        self.tokens = tokens
        # Frozen, because most trainers and defenses change what embeds images, and nothing else.
        self.read = _Reader(text).requires_grad_(False)
        self.moments = moments
        """Channel mean and deviation that the weights were trained with, if there are any."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return embeddings of images, resized to the side that the image tower takes."""
        if x_BCHW.shape[-2:] != (self.side, self.side):
            x_BCHW = F.interpolate(
                x_BCHW, (self.side, self.side), mode="bicubic", antialias=True, align_corners=False
            )
        z_BD: Tensor = self.image(x_BCHW)
        return z_BD

    def reader(self) -> nn.Module:
        """Return the text tower and the factor of the cosines.

        They have no gradients: a trainer of both towers turns them on, and off again.
        """
        return self.read

    def captions(self, class_names: Sequence[str], templates: Templates) -> list[str]:
        """Return each name in each template, all templates of a name in a row.

        `imagenet` stands for the 80 templates of CLIP's authors. Raises UserError without names.
        """
        if not class_names:
            raise UserError(
                "CLIP reads class names, and this data set has none",
                "Take a data set that names them.",
                exit_code=1,
            )
        if templates == "imagenet":
            # open_clip is an optional dependency.
            from open_clip import OPENAI_IMAGENET_TEMPLATES

            templates = tuple(fill("{}") for fill in OPENAI_IMAGENET_TEMPLATES)
        # Not `format`, which fails on other braces. Class names may have
        # underscores where captions have spaces.
        return [
            template.replace("{}", name.replace("_", " "))
            for name in class_names
            for template in templates
        ]

    def describe(self, texts: Sequence[str]) -> Tensor:
        """Return z_MD of texts, whose length is not 1. A text beyond the context is cut off."""
        device = self.read.log_factor.device
        parts = (texts[at : at + TEXTS_AT_ONCE] for at in range(0, len(texts), TEXTS_AT_ONCE))
        return torch.cat(
            [self.read.text(self.tokens(list(part)).to(device)).float() for part in parts]
        )

    def factor(self) -> Tensor:
        """Return the learned factor that turns a cosine into a logit; 100 at most."""
        # Bounded as in the paper: larger factors made its training unstable.
        return self.read.log_factor.clamp(max=math.log(MAX_FACTOR)).exp()

    def contrast(self, z_BD: Tensor, texts: Sequence[str], y_B: Tensor) -> Tensor:
        """Return symmetric InfoNCE of a batch: images over all texts, texts over all images.

        All texts of an image's class are right for it, in equal shares.
        """
        # A caption that several images have is embedded once.
        distinct = list(dict.fromkeys(texts))
        place = {text: at for at, text in enumerate(distinct)}
        t_BD = self.describe(distinct)[
            torch.tensor([place[text] for text in texts], device=z_BD.device)
        ]
        # The factor multiplies the rounding errors of cosines, of which bf16 resolves few near 1.
        with torch.autocast(z_BD.device.type, enabled=False):
            logits_BB = (
                self.factor() * F.normalize(z_BD.float(), dim=1) @ F.normalize(t_BD, dim=1).T
            )
            alike_BB = (y_B[:, None] == y_B).float()
            # The same shares serve both directions, because being alike is mutual.
            share_BB = alike_BB / alike_BB.sum(1, keepdim=True)
            log_share_BB = F.log_softmax(logits_BB, 1) + F.log_softmax(logits_BB.T, 1)
            return -(share_BB * log_share_BB).sum(1).mean() / 2


class _Reader(nn.Module):
    """The part that embeds no images."""

    def __init__(self, text: nn.Module) -> None:
        super().__init__()
        self.text = text
        # A logarithm, so that the factor stays positive. Set in
        # `reset_parameters`, by which `fresh_copy` draws layers anew.
        self.log_factor = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the factor of the cosines to its value at the start of training."""
        nn.init.constant_(self.log_factor, math.log(INITIAL_FACTOR))


def need_open_clip(kind: str) -> None:
    """Raise UserError where open_clip is missing."""
    if find_spec("open_clip") is None:
        raise UserError(f"{kind} needs open_clip", "pip install 'raybd[clip]'", exit_code=1)
