"""A tiny CLIP for quick runs on a CPU: a small image tower, and a text tower that reads bytes.

Radford et al. 2021, arXiv 2103.00020, sections 2.3 and 2.4. The towers are open_clip's.
Differs: a byte is a token, so that no table of 49,408 tokens has to be learned; the last
normalisation of each residual block starts at 1, not 0.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from raybd.networks._clip import Clip, need_open_clip
from raybd.types.models import Network

BEGIN_TOKEN = 256
END_TOKEN = 257
"""Tokens beside the bytes. The text tower reads its result at the largest one."""
MAX_TOKENS = 48
"""Tokens of a text; a longer one is cut off."""


class TinyClip(Network):
    """A residual network of four blocks, a transformer of two layers; 0.47 million parameters."""

    width: int = Field(8, ge=8, le=64, multiple_of=8)
    """Channels of the first stage of the image tower; the last one has 32 times as many."""
    values: int = Field(64, ge=8, le=512)
    """Values of an embedding."""
    input_size: int = Field(32, ge=32, le=128, multiple_of=32)
    """Side that every image is resized to inside the network, in pixels."""

    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return encoder (both towers) and head, for any image size."""
        need_open_clip("tiny_clip")
        from open_clip import CustomTextCLIP

        vision = {
            "image_size": self.input_size,
            "width": self.width,
            "layers": (1, 1, 1, 1),
            "head_width": 32,
        }
        text = {
            "context_length": MAX_TOKENS,
            "vocab_size": END_TOKEN + 1,
            "width": 64,
            "heads": 2,
            "layers": 2,
        }
        model = CustomTextCLIP(self.values, vision, text)
        for name, parameter in model.visual.named_parameters():
            if name.endswith("bn3.weight"):
                # At open_clip's zero, the blocks add nothing at first.
                nn.init.ones_(parameter)
        return Clip(model.visual, model.text, self.input_size, tokens), nn.Linear(
            self.values, num_classes
        )


def tokens(texts: list[str]) -> Tensor:
    """Return the bytes of each text between a begin and an end token, padded with zeros."""
    tokens_ML = torch.zeros(len(texts), MAX_TOKENS, dtype=torch.int64)
    for row, text in zip(tokens_ML, texts, strict=True):
        # A long text is cut before its end token: there the tower reads the result.
        tokens = [BEGIN_TOKEN, *text.encode()[: MAX_TOKENS - 2], END_TOKEN]
        row[: len(tokens)] = torch.tensor(tokens)
    return tokens_ML
