"""ViT-B/16: a vision transformer on patches of 16 x 16 pixels. torchvision's.

Dosovitskiy et al. 2021, arXiv 2010.11929, section 3.1 and table 1.
Differs: images are enlarged to `input_size` inside the network; the head is not initialised with
zeros, so that the encoder gets a gradient from the first step on.
"""

from pydantic import Field
from torch import nn

from raybd.networks._imagenet import Resize, imagenet_weights, resizing
from raybd.types.models import Network, Plain


class VitB16(Network):
    """Transformer of 12 layers; 86 million parameters."""

    pretrained: bool = False
    """Start from torchvision's ImageNet weights. Position embeddings are interpolated for another
    input size."""
    input_size: int = Field(224, ge=16, le=512, multiple_of=16)
    """Side that every image is resized to inside the network, in pixels."""

    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return encoder (the class token after the last layer) and head, for any image size."""
        from torchvision.models import ViT_B_16_Weights, vit_b_16
        from torchvision.models.vision_transformer import interpolate_embeddings

        model = vit_b_16(image_size=self.input_size, num_classes=num_classes)
        width = model.hidden_dim
        model.heads = nn.Identity()
        if self.pretrained:
            # The weights' own head is for the 1,000 classes of ImageNet.
            state = imagenet_weights("vit_b_16", ViT_B_16_Weights.IMAGENET1K_V1)
            # There is one position for each patch, and the weights have those of 224 pixels.
            state = interpolate_embeddings(self.input_size, 16, state)
            model.load_state_dict(
                {name: value for name, value in state.items() if not name.startswith("heads.")}
            )
        return nn.Sequential(Resize(self.input_size), model), nn.Linear(width, num_classes)

    def plain(self, image_size: int) -> Plain:
        """Return torchvision's names; images are resized before its model."""
        code = (
            f"model = torchvision.models.vit_b_16(image_size={self.input_size}, "
            "num_classes={classes})",
            resizing(self.input_size),
        )
        return Plain("heads.head", "1.", {}, code, "torchvision", "vit_b_16")
