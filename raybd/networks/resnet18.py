"""ResNet-18, by default with the stem for small images: a 3 x 3 convolution, no max-pooling.

He, Zhang, Ren and Sun 2016, arXiv 1512.03385, table 1; the small stem as in section 4.2. Built on
torchvision's.
Differs: all four stages on small images, as in the field's toolboxes (section 4.2 has three, and
thinner ones).
"""

from typing import Literal

from pydantic import model_validator
from torch import nn

from raybd.networks._imagenet import imagenet_weights
from raybd.types.models import Network, Plain


class Resnet18(Network):
    """Residual network of 18 layers; 11.2 million parameters."""

    stem: Literal["cifar", "imagenet"] = "cifar"
    """cifar: keeps the resolution, for images below 100 pixels. imagenet: a quarter of it, for
    large images."""
    pretrained: bool = False
    """Start from torchvision's ImageNet weights; needs the imagenet stem."""

    @model_validator(mode="after")
    def _weights_fit_the_stem(self) -> "Resnet18":
        if self.pretrained and self.stem != "imagenet":
            raise ValueError("pretrained weights belong to the other stem: set stem to imagenet")
        return self

    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return encoder and head, for any image size."""
        from torchvision.models import ResNet18_Weights, resnet18

        model = resnet18(num_classes=num_classes)
        if self.stem == "cifar":
            # The strides of the original stem would leave one pixel of a small image.
            model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
            model.maxpool = nn.Identity()
        head, model.fc = model.fc, nn.Identity()
        if self.pretrained:
            # The weights' own head is for the 1,000 classes of ImageNet.
            state = imagenet_weights("resnet18", ResNet18_Weights.IMAGENET1K_V1)
            model.load_state_dict(
                {name: value for name, value in state.items() if not name.startswith("fc.")}
            )
        return model, head

    def plain(self, image_size: int) -> Plain:
        """Return torchvision's names; the small stem takes two more lines."""
        code = ["model = torchvision.models.resnet18(num_classes={classes})"]
        if self.stem == "cifar":
            code += [
                "model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)",
                "model.maxpool = torch.nn.Identity()",
            ]
        return Plain("fc", code=tuple(code), library="torchvision", architecture="resnet18")
