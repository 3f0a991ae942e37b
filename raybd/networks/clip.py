"""CLIP: an image tower and a text tower that embed pictures and their captions alike.

Radford et al. 2021, arXiv 2103.00020, section 2. Architectures and weights are open_clip's.
Differs: the whole image is resized (bicubic), where the authors cut out the middle square. Trainers
that keep the weights (`pretrained`, `zero_shot`) normalise images as the weights want it;
others use the moments of the data set.
"""

import difflib
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from pydantic import Field, ValidationInfo, field_validator
from safetensors import SafetensorError
from torch import Tensor, nn

from raybd.networks._clip import Clip as _Towers
from raybd.networks._clip import Moments, need_open_clip
from raybd.ops.download import patience
from raybd.types.errors import UserError
from raybd.types.models import Network

MAX_BYTES_OF_A_NUMBER = 8
"""Of weights in double precision."""
MAX_HEADER_BYTES = 2**22
"""Size of the header of a safetensors file, about 100 bytes for each tensor."""


class Clip(Network):
    """Both towers of an open_clip model; RN50: 102 million parameters."""

    model: str = "RN50-quickgelu"
    """Architecture, by open_clip's name; weights of OpenAI want one that ends in -quickgelu."""
    pretrained: bool | str = Field(False, union_mode="left_to_right")
    """Weights to start from: a tag of open_clip, like openai, or the path of a safetensors file,
    which is part of every key."""

    @field_validator("model")
    @classmethod
    def _can_be_built(cls, model: str) -> str:
        if find_spec("open_clip") is None:
            return model  # `build` says what to install
        import open_clip

        if model not in open_clip.list_models():
            near = difflib.get_close_matches(model, open_clip.list_models(), n=3, cutoff=0.4)
            raise ValueError(
                f"open_clip has no architecture of this name; near it: {', '.join(near) or 'none'}"
            )
        if "multimodal_cfg" in open_clip.get_model_config(model):
            raise ValueError("this architecture writes captions; take one that only embeds them")
        return model

    @field_validator("pretrained", mode="before")
    @classmethod
    def _names_weights_that_hold_no_code(cls, pretrained: Any, info: ValidationInfo) -> Any:
        # `model` is missing where its own check failed: that error is enough.
        if (
            not isinstance(pretrained, str | bool)
            or pretrained is False
            or "model" not in info.data
            or not find_spec("open_clip")
        ):
            return pretrained
        import open_clip

        model: str = info.data["model"]
        tags = open_clip.pretrained.list_pretrained_tags_by_model(model)
        # A word without suffix or slash is meant as a tag, and not as a file that is missing.
        if pretrained is True or (
            pretrained not in tags and not Path(pretrained).suffix and "/" not in pretrained
        ):
            raise ValueError(
                "name the weights, by the path of a safetensors file or a tag: "
                f"{', '.join(tags) or 'none is known'}"
            )
        if pretrained in tags:
            _fits_activation(model, pretrained)
        elif Path(pretrained).suffix != ".safetensors":
            raise ValueError(
                f"{pretrained}: pickled checkpoints can run code: "
                "convert it with safetensors.torch.save_file"
            )
        elif not Path(pretrained).is_file():
            raise ValueError(f"there is no file {pretrained}")
        return pretrained

    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return encoder (both towers) and head, for any image size.

        Raises UserError if weights cannot be had or do not fit.
        """
        need_open_clip("clip")
        import open_clip

        config: dict[str, Any] = open_clip.get_model_config(self.model)
        # Text towers of Hugging Face would download their weights, which nobody has asked for.
        config["text_cfg"]["hf_model_pretrained"] = False
        try:
            # open_clip's other class has no module that is the text tower alone.
            model = open_clip.CustomTextCLIP(
                **{name: value for name, value in config.items() if name != "custom_text"}
            )
            side: int = (
                model.visual.image_size[0]
                if isinstance(model.visual.image_size, tuple)
                else model.visual.image_size
            )
            # Fails here, with the name of the network, and not at the first caption.
            _tokenizer(self.model)
        except (ImportError, OSError, RuntimeError) as error:
            raise UserError(
                f"clip: {self.model} can't be built: {error}",
                "Take another `model`, like RN50.",
                exit_code=1,
            ) from error
        moments = (
            _load(model, self.model, self.pretrained) if isinstance(self.pretrained, str) else None
        )
        encoder = _Towers(model.visual, model.text, side, partial(_tokens, self.model), moments)
        if moments is not None:
            # Trained weights come with the factor that they learned.
            encoder.read.log_factor.data.copy_(model.logit_scale.detach().squeeze())
        return encoder, nn.Linear(config["embed_dim"], num_classes)


def _fits_activation(model: str, tag: str) -> None:
    """Raise ValueError for weights of another activation: open_clip only warns."""
    import open_clip

    wanted = open_clip.get_pretrained_cfg(model, tag).get("quick_gelu", False)
    if wanted != open_clip.get_model_config(model).get("quick_gelu", False):
        other = f"{model}-quickgelu" if wanted else model.removesuffix("-quickgelu")
        raise ValueError(f"these weights were made with another activation: set model to {other}")


def _load(model: nn.Module, name: str, weights: str) -> Moments:
    """Load weights by a tag or a file; return the channel moments that they were trained with.

    Unpickles nothing but tensors.
    """
    import open_clip

    tags = open_clip.pretrained.list_pretrained_tags_by_model(name)
    # A file does not tell its moments: those of the architecture's first known weights are assumed.
    origin = open_clip.get_pretrained_cfg(
        name, weights if weights in tags else tags[0] if tags else ""
    )
    try:
        with patience():
            path = open_clip.download_pretrained(origin) if weights in tags else weights
        if weights not in tags:
            _check_size(model, Path(path))
        open_clip.load_checkpoint(model, path, strict=True, weights_only=True)
    # UnpicklingError: torch refuses a checkpoint that holds more than tensors. The last ones:
    # open_clip converts weights before it compares them with the model, and expects its own.
    except (
        OSError,
        RuntimeError,
        ValueError,
        SafetensorError,
        UnpicklingError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        ArithmeticError,
    ) as error:
        where = (
            f" (huggingface.co/{origin['hf_hub'].rstrip('/')})"
            if weights in tags and origin.get("hf_hub")
            else ""
        )
        why = (
            str(error).strip().splitlines()[-1].strip()
            if str(error).strip()
            else type(error).__name__
        )
        raise UserError(
            f"clip: weights {weights} of {name}{where} can't be had: {why}",
            "Set `pretrained` to false, or to the path of a safetensors file of this architecture.",
            exit_code=1,
        ) from error
    return origin.get("mean", open_clip.OPENAI_DATASET_MEAN), origin.get(
        "std", open_clip.OPENAI_DATASET_STD
    )


def _check_size(model: nn.Module, path: Path) -> None:
    """Raise ValueError for a file of weights that is larger than those of the model can be."""
    if not path.is_file():
        raise ValueError("it is no file")
    wanted = sum(tensor.numel() * MAX_BYTES_OF_A_NUMBER for tensor in model.state_dict().values())
    found = path.stat().st_size
    if found > wanted + MAX_HEADER_BYTES:
        raise ValueError(f"the file has {found} bytes; this architecture has {wanted} at most")
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise ValueError(f"it states a header of {header_bytes} bytes")


@cache
def _tokenizer(model: str) -> Any:
    import open_clip

    # Kept, because a tokenizer reads its vocabulary from disk.
    return open_clip.get_tokenizer(model)


def _tokens(model: str, texts: list[str]) -> Tensor:
    tokens_ML: Tensor = _tokenizer(model)(texts)
    return tokens_ML
