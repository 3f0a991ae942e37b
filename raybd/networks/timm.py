"""Every classifier of timm, as `network: timm:NAME`, like timm:vit_tiny_patch16_224.

https://huggingface.co/docs/timm; the papers are named there. Needs `pip install raybd[timm]`.
Differs: the classifier is replaced by one for the classes of the data set; images may be resized
inside the network, see `input_size`.
"""

import sys
from contextlib import redirect_stdout
from functools import cache
from importlib.util import find_spec
from typing import Any, ClassVar, Self

from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from raybd.networks._families import Normalisation, check_known, divided
from raybd.networks._imagenet import resizing
from raybd.ops.download import patience
from raybd.types.errors import UserError
from raybd.types.models import Network, Plain


class Timm(Network):
    """A classifier of timm by its name."""

    family_field: ClassVar[str | None] = "model"
    pretrained: bool = False
    """Start from the weights that timm has under this name: its tag, after the dot, says which."""
    model: str
    """The name in timm, like convnext_atto or resnet50.a1_in1k; it may stand in the kind,
    timm:convnext_atto."""
    normalisation: Normalisation = "data"
    """data: images are normalised by the moments of the training set. weights: by those that the
    pretrained weights were made with."""
    input_size: int | None = Field(None, ge=16, le=1024)
    """Side that every image is resized to inside the network, in pixels; none keeps its own.
    Models with a fixed size (most transformers) are built for the size that they get."""

    @field_validator("model")
    @classmethod
    def _is_a_classifier(cls, model: str, info: ValidationInfo) -> str:
        if find_spec("timm") is None:
            return model  # `build` says what to install
        import timm

        name, _, tag = model.partition(".")
        check_known(name, cls.family(), "timm")
        config = timm.models.get_pretrained_cfg(name)
        if config is None or not isinstance(config.classifier, str):
            raise ValueError("its last layer is not one linear classifier; take another model")
        if tag and tag not in _tags(name):
            raise ValueError(f"timm has this model with the tags {', '.join(_tags(name))}")
        # With the tag, because another version of timm may take other weights by default.
        return f"{name}.{config.tag}" if info.data.get("pretrained") and not tag else model

    @classmethod
    def family(cls) -> tuple[str, ...]:
        """Return the names of timm's models, without tags; empty where timm is missing."""
        return _names() if find_spec("timm") is not None else ()

    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return encoder and head. Raises UserError where timm is missing or weights can't be had.

        It is an error, too, if the model can't be built for images of this size.
        """
        _need_timm()
        import timm

        try:
            # What a download says would land on stdout, which is for data.
            with patience(), redirect_stdout(sys.stderr):
                model = timm.create_model(
                    self.model,
                    pretrained=self.pretrained,
                    num_classes=num_classes,
                    **self._arguments(image_size),
                )
        # Libraries below raise nearly anything for a download that fails, all of these kinds.
        except (OSError, RuntimeError, ValueError, AssertionError, LookupError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(
                f"timm:{self.model}: can't be built for images of {self._side(image_size)} pixels: "
                f"{lines[-1]}",
                "Set `input_size`, to 224 for most models"
                + (", or `pretrained` to false." if self.pretrained else "."),
                exit_code=1,
            ) from error
        encoder, head = divided(model, self._config().classifier, self._resized(image_size))
        if self.normalisation == "weights":
            config = self._config()
            # `new_victim` asks for it.
            encoder.moments = (tuple(config.mean), tuple(config.std))  # type: ignore[assignment]
        return encoder, head

    def without_pretraining(self) -> Self:
        """Return the same architecture with freshly drawn weights, which no moments belong to."""
        return self.model_copy(update={"pretrained": False, "normalisation": "data"})

    def plain(self, image_size: int) -> Plain:
        """Return timm's names. Raises UserError where timm is missing."""
        _need_timm()
        arguments = "".join(
            f", {name}={value}" for name, value in self._arguments(image_size).items()
        )
        code = [f"model = timm.create_model({self.model!r}, num_classes={{classes}}{arguments})"]
        side = self._resized(image_size)
        if side is not None:
            code.append(resizing(side))
        return Plain(
            self._config().classifier,
            "" if side is None else "1.",
            code=tuple(code),
            library="timm",
            architecture=self.model.partition(".")[0],
        )

    def _config(self) -> Any:
        import timm

        return timm.models.get_pretrained_cfg(self.model)

    def _side(self, image_size: int) -> int:
        return self.input_size or image_size

    def _resized(self, image_size: int) -> int | None:
        """The side that images are resized to: always for a model of fixed size."""
        return self._side(image_size) if self._config().fixed_input_size else self.input_size

    def _arguments(self, image_size: int) -> dict[str, Any]:
        fixed = self._config().fixed_input_size
        return {"img_size": self._side(image_size)} if fixed else {}


def _need_timm() -> None:
    if find_spec("timm") is None:
        raise UserError("timm is not installed", "pip install 'raybd[timm]'", exit_code=1)


@cache
def _names() -> tuple[str, ...]:
    import timm

    return tuple(timm.list_models())


@cache
def _tags(name: str) -> tuple[str, ...]:
    import timm

    found = timm.list_pretrained(f"{name}.*")
    return tuple(one.partition(".")[2] for one in found)
