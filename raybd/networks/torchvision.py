"""Every classifier of torchvision, as `network: torchvision:NAME`, like torchvision:resnet50.

https://docs.pytorch.org/vision/stable/models.html; the papers are named there.
Differs: the classifier is replaced by one for the classes of the data set; auxiliary classifiers
(googlenet, inception_v3) are left out; images may be resized inside the network, see `input_size`.
"""

from functools import cache
from typing import Any, ClassVar, Self

from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from raybd.networks._families import Normalisation, check_known, divided, head_name
from raybd.networks._imagenet import imagenet_weights, resizing
from raybd.types.errors import UserError
from raybd.types.models import Network, Plain

AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""The models with further classifiers, for training alone, and the names of their weights."""
EXCEPT = ("squeezenet", "mnasnet")
"""Their classifier is a convolution; their weights can't be loaded without torch's metadata."""


class Torchvision(Network):
    """A classifier of torchvision by its name."""

    family_field: ClassVar[str | None] = "model"
    model: str
    """The name in torchvision, like resnet50; it may stand in the kind, torchvision:resnet50."""
    pretrained: bool | str = Field(False, union_mode="left_to_right")
    """Weights of torchvision to start from, like IMAGENET1K_V1; true: those that it calls the
    default."""
    normalisation: Normalisation = "data"
    """data: images are normalised by the moments of the training set. weights: by those that the
    pretrained weights were made with."""
    input_size: int | None = Field(None, ge=16, le=1024)
    """Side that every image is resized to inside the network, in pixels; none keeps its own.
    Transformers with a fixed size (vit) are built for the size that they get."""

    @field_validator("model")
    @classmethod
    def _is_a_classifier(cls, model: str) -> str:
        check_known(model, cls.family(), "torchvision")
        return model

    @field_validator("pretrained")
    @classmethod
    def _names_weights(cls, pretrained: bool | str, info: ValidationInfo) -> bool | str:
        # `model` is missing where its own check failed: that error is enough.
        if pretrained is False or "model" not in info.data:
            return pretrained
        from torchvision.models import get_model_weights

        known = get_model_weights(info.data["model"])
        # Its name and not `true`, which another version of torchvision may take for others.
        name = known.DEFAULT.name if pretrained is True else pretrained
        if name not in known.__members__:
            raise ValueError(f"torchvision knows the weights {', '.join(known.__members__)}")
        return str(name)

    @classmethod
    def family(cls) -> tuple[str, ...]:
        """Return the names of torchvision's classifiers that end in a linear layer."""
        return _names()

    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return encoder and head. Raises UserError for images that a transformer can't divide."""
        from torchvision.models import get_model

        try:
            model = get_model(self.model, num_classes=num_classes, **self._arguments(image_size))
        # Its only assertions are about sizes.
        except AssertionError as error:
            raise UserError(
                f"torchvision:{self.model}: can't be built for {self._side(image_size)} pixels",
                "Set `input_size`, to 224 for most models.",
                exit_code=1,
            ) from error
        head = head_name(model)
        if self.pretrained:
            self._load(model, head, image_size)
        encoder, classifier = divided(
            model, head, self._side(image_size) if self._fixed else self.input_size
        )
        if self.normalisation == "weights":
            chosen = self._weights().transforms()
            # `new_victim` asks for it.
            encoder.moments = (tuple(chosen.mean), tuple(chosen.std))  # type: ignore[assignment]
        return encoder, classifier

    def without_pretraining(self) -> Self:
        """Return the same architecture with freshly drawn weights, which no moments belong to."""
        return self.model_copy(update={"pretrained": False, "normalisation": "data"})

    def plain(self, image_size: int) -> Plain:
        """Return torchvision's names."""
        arguments = self._arguments(image_size)
        said = "".join(f", {name}={value}" for name, value in arguments.items())
        code = [
            f"model = torchvision.models.get_model({self.model!r}, num_classes={{classes}}{said})"
        ]
        side = self._side(image_size) if self._fixed else self.input_size
        if side is not None:
            code.append(resizing(side))
        return Plain(
            _head_of(self.model),
            "" if side is None else "1.",
            code=tuple(code),
            library="torchvision",
            architecture=self.model,
            unused=AUXILIARY.get(self.model, ()),
        )

    @property
    def _fixed(self) -> bool:
        """Whether the model is built for one size of images."""
        return self.model.startswith(("vit_", "maxvit"))

    def _side(self, image_size: int) -> int:
        return self.input_size or image_size

    def _arguments(self, image_size: int) -> dict[str, Any]:
        if self.model in AUXILIARY:
            return {"aux_logits": False, "init_weights": True}
        if self.model.startswith("vit_"):
            return {"image_size": self._side(image_size)}
        if self.model.startswith("maxvit"):
            side = self._side(image_size)
            return {"input_size": (side, side)}
        return {}

    def _weights(self) -> Any:
        from torchvision.models import get_model_weights

        return get_model_weights(self.model)[str(self.pretrained)]

    def _load(self, model: nn.Module, head: str, image_size: int) -> None:
        """Load the pretrained weights of all layers but the classifier, which is for ImageNet."""
        state = imagenet_weights(f"torchvision:{self.model}", self._weights())
        if self.model.startswith("vit_"):
            from torchvision.models.vision_transformer import interpolate_embeddings

            # There is one position for each patch, and the weights may have those of another size.
            patch = int(self.model.rpartition("_")[2])
            state = dict(interpolate_embeddings(self._side(image_size), patch, state))
        unused = (f"{head}.", *AUXILIARY.get(self.model, ()))
        kept = {name: v for name, v in state.items() if not name.startswith(unused)}
        own = {name: v for name, v in model.state_dict().items() if name.startswith(f"{head}.")}
        model.load_state_dict({**kept, **own})


@cache
def _names() -> tuple[str, ...]:
    import torchvision

    found = torchvision.models.list_models(module=torchvision.models)
    return tuple(name for name in found if not name.startswith(EXCEPT))


def _head_of(model: str) -> str:
    """Return the name of a model's classifier, without building it: a family has one name."""
    heads = {
        ("alexnet", "vgg"): "classifier.6",
        ("convnext",): "classifier.2",
        ("densenet",): "classifier",
        ("efficientnet", "mobilenet_v2"): "classifier.1",
        ("maxvit",): "classifier.5",
        ("mobilenet_v3",): "classifier.3",
        ("swin",): "head",
        ("vit",): "heads.head",
    }
    return next((name for starts, name in heads.items() if model.startswith(starts)), "fc")
