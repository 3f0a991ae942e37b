"""ConvNeXt-T: a convolutional network with the design of a transformer. torchvision's.

Liu et al. 2022, arXiv 2201.03545, section 2 and appendix A.1.
Differs: images may be enlarged inside the network, see `input_size`.
"""

from typing import ClassVar

from pydantic import Field
from torch import nn

from raybd.networks._imagenet import Resize, imagenet_weights, resizing, smallest_size
from raybd.types.models import Network, Plain


class ConvnextTiny(Network):
    """Eighteen blocks of depthwise 7 x 7 convolutions; 28 million parameters."""

    version: ClassVar[int] = 2
    pretrained: bool = False
    """Start from torchvision's ImageNet weights."""
    input_size: int | None = Field(None, ge=32, le=512)
    """Side that every image is resized to inside the network, in pixels. None keeps the image's
    own. The weights were trained at 224."""

    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return encoder (mean over the image, normalised) and head.

        Takes images of 32 pixels or more; of any size with `input_size`. Raises UserError below.
        """
        from torchvision.models import ConvNeXt_Tiny_Weights, convnext_tiny

        smallest_size("convnext_tiny", self.input_size or image_size, 32)
        model = convnext_tiny(num_classes=num_classes)
        # The normalisation before it stays in the encoder, so that the weights for it are used.
        head, model.classifier[2] = model.classifier[2], nn.Identity()
        if self.pretrained:
            # The weights' own head is for the 1,000 classes of ImageNet.
            state = imagenet_weights("convnext_tiny", ConvNeXt_Tiny_Weights.IMAGENET1K_V1)
            model.load_state_dict(
                {name: v for name, v in state.items() if not name.startswith("classifier.2.")}
            )
        resize = [] if self.input_size is None else [Resize(self.input_size)]
        return nn.Sequential(*resize, model), head

    def plain(self, image_size: int) -> Plain:
        """Return torchvision's names."""
        code = ["model = torchvision.models.convnext_tiny(num_classes={classes})"]
        if self.input_size is not None:
            code.append(resizing(self.input_size))
        inside = "0." if self.input_size is None else "1."
        return Plain("classifier.2", inside, {}, tuple(code), "torchvision", "convnext_tiny")
