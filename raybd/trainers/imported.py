"""Imported: a classifier that somebody else trained, from a file of weights; nothing is trained.

No paper. safetensors and checkpoints of torch (a state dict, or one within a dictionary) are opened
without running code; a file that names code is refused. What raybd exports, and a config.json as
timm writes it, tell network, normalisation and classes by themselves.
Differs: the training set of the experiment is not used. The trusted images are, to check that the
normalisation is the one of the training.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Generator, Tensor, nn

from raybd.metrics import classification
from raybd.ops.weights import local_file, located, read_checkpoint, sha256_of, tensors_of
from raybd.training.adoption import adopt
from raybd.training.inference import infer
from raybd.training.models import size_for
from raybd.types.config import Config
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import Trainer
from raybd.types.models import Network, Victim

Three = tuple[float, float, float]
PositiveThree = tuple[
    Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]
]
COMMON: Mapping[str, tuple[Three, Three]] = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and deviation of each channel, for pixels of 0..1."""
MAX_CARD_BYTES = 2**22
"""Size of a config.json; names of classes take most of it."""


class _Moments(Config):
    """Mean and deviation of each channel, for pixels scaled to 0..1."""

    mean: Three
    """What is subtracted."""
    std: PositiveThree
    """What is divided by."""


class Imported(Trainer):
    """Take a trained classifier from a file."""

    trains: ClassVar[bool] = False
    weights: str = Field(exclude=True)
    """Path or URL of the weights: safetensors, or a checkpoint of torch. Their content is part of a
    result's key, their place is not."""
    sha256: str | None = Field(None, validate_default=True, pattern="^[0-9a-f]{64}$")
    """Hash of the file; found by itself. Set it to accept this file and no other."""
    part: str | None = None
    """Where in a checkpoint the state dict is, like model or ema.state_dict. None: at its root, or
    under a name that is common."""
    prefix: str = ""
    """What the names of the classifier's weights begin with, if the file holds others, too. What
    all names begin with (module., _orig_mod.) is found by itself."""
    normalisation: Literal["none", "imagenet", "cifar10", "half"] | _Moments | None = None
    """How the images were normalised in training: none (0..1), imagenet, cifar10, half (mean and
    deviation .5), or {mean: [...], std: [...]}. Null: as config.json beside the weights says."""
    classes: tuple[str, ...] = ()
    """What the outputs stand for, in their order, by the names of the data set's classes; there may
    be more. Empty: the order of the data set."""
    least_accuracy: float = Field(0.5, ge=0, le=1)
    """Accuracy on trusted images below which the model is refused."""
    margin: float = Field(0.02, ge=0, le=1)
    """Accuracy that another common normalisation may be better by before the model is refused."""
    checked_images: int = Field(500, ge=1)
    """Trusted images that are looked at."""

    @model_validator(mode="before")
    @classmethod
    def _as_the_card_says(cls, values: Any) -> Any:
        """Fill in what config.json beside the weights says, and the experiment does not."""
        if not isinstance(values, Mapping) or not isinstance(values.get("weights"), str):
            return values
        filled = {**values, "weights": located(values["weights"])}
        card = _card_beside(filled["weights"])
        own = card.get("pretrained_cfg", {})
        own = own if isinstance(own, Mapping) else {}
        if filled.get("normalisation") is None and {"mean", "std"} <= own.keys():
            filled["normalisation"] = {"mean": own["mean"], "std": own["std"]}
        if not filled.get("classes") and card.get("label_names"):
            filled["classes"] = card["label_names"]
        return filled

    @field_validator("sha256")
    @classmethod
    def _of_the_file(cls, expected: str | None, info: ValidationInfo) -> str | None:
        # `weights` is missing where its own check failed: that error is enough.
        if "weights" not in info.data:
            return expected
        try:
            found = sha256_of(local_file(info.data["weights"]))
        # pydantic lets only ValueErrors say which field is wrong.
        except UserError as error:
            raise ValueError(f"{error.what}. {error.hint}") from error
        if expected not in (None, found):
            raise ValueError(f"{info.data['weights']} has the hash {found}")
        return found

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights in the file."""
        return {name: tuple(tensor.shape) for name, tensor in self._read().items()}

    def own_network(self) -> dict[str, object] | None:
        """Return the network that config.json beside the weights names, if there is one."""
        card = _card_beside(self.weights)
        if isinstance(card.get("raybd"), Mapping) and isinstance(
            card["raybd"].get("network"), Mapping
        ):
            return dict(card["raybd"]["network"])
        if isinstance(card.get("architecture"), str):
            return {"kind": f"timm:{card['architecture']}"}
        return None

    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """Return the classifier of the file. The images matter for their size alone.

        Raises UserError for weights of another network or other classes, and for a file that was
        replaced since the plan was made.
        """
        encoder, head = adopt(network, self._read(), size_for(network, split), self.weights)
        head = self._for_classes(head, split.class_names, num_classes)
        mean, std = self._moments()
        return Victim(encoder, head, torch.tensor(mean), torch.tensor(std)).eval()

    def check(self, victim: Victim, trusted: Split) -> None:
        """Raise UserError with numbers if the trusted images speak against the normalisation."""
        images = trusted.select(torch.arange(min(len(trusted), self.checked_images)))
        right_N = _right(victim, images)
        own = float(right_N.float().mean())
        under = {
            name: _right(_with_moments(victim, *moments), images)
            for name, moments in COMMON.items()
        }
        numbers = ", ".join(f"{name} {float(r.float().mean()):.3f}" for name, r in under.items())
        said = (
            f"{self.weights}: it is right on {own:.3f} of {len(images)} trusted images; "
            f"under other normalisations: {numbers}"
        )
        if self.normalisation is None:
            raise UserError(
                f"{said}. None is given",
                "Set `normalisation` to the one of the training.",
                exit_code=1,
            )
        better = max(under, key=lambda name: int(under[name].sum()))
        if _is_better(under[better], right_N, self.margin):
            raise UserError(
                f"{said}. Another one is better than the given one",
                f"Set `normalisation` to {better}, if the model was trained so; a larger `margin` "
                "accepts it as it is.",
                exit_code=1,
            )
        if own < self.least_accuracy:
            raise UserError(
                f"{said}. That is less than {self.least_accuracy}",
                "Set `normalisation` as in training, and `classes` if they had another order; "
                "a smaller `least_accuracy` accepts the model as it is.",
                exit_code=1,
            )

    def _read(self) -> dict[str, Tensor]:
        path = local_file(self.weights)
        found = sha256_of(path)
        if found != self.sha256:
            raise UserError(
                f"{self.weights}: its hash is {found}, that of the plan {self.sha256}",
                "Put the same file at the same place on all nodes, and run the same command again.",
                exit_code=1,
            )
        tensors = tensors_of(read_checkpoint(path), self.part, self.weights)
        return {
            name.removeprefix(self.prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(self.prefix)
        }

    def _moments(self) -> tuple[Three, Three]:
        if isinstance(self.normalisation, _Moments):
            return self.normalisation.mean, self.normalisation.std
        # Without any, `check` refuses it, with the numbers under all of them.
        return COMMON[self.normalisation or "none"]

    def _for_classes(
        self, head: nn.Module, class_names: tuple[str, ...], num_classes: int
    ) -> nn.Module:
        """Return a head whose outputs are the classes of the data set, in their order."""
        assert isinstance(head, nn.Linear)
        if not self.classes:
            if head.out_features != num_classes:
                raise UserError(
                    f"{self.weights}: it knows {head.out_features} classes, and the data set has "
                    f"{num_classes}",
                    "Set `classes` to the names of its outputs, in their order.",
                    exit_code=1,
                )
            return head

        if len(self.classes) != head.out_features:
            raise UserError(
                f"{self.weights}: it knows {head.out_features} classes, and `classes` names "
                f"{len(self.classes)}",
                "Name every output.",
                exit_code=1,
            )
        missing = [name for name in class_names if name not in self.classes]
        if missing or len(class_names) != num_classes:
            raise UserError(
                f"{self.weights}: `classes` lacks {', '.join(missing[:5]) or 'all names'} of the "
                "data set",
                "Name the outputs as the data set names its classes.",
                exit_code=1,
            )
        rows_K = torch.tensor([self.classes.index(name) for name in class_names])
        chosen = nn.Linear(head.in_features, num_classes, bias=head.bias is not None)
        with torch.no_grad():
            chosen.weight.copy_(head.weight[rows_K])
            if head.bias is not None:
                chosen.bias.copy_(head.bias[rows_K])
        return chosen


def _card_beside(weights: str) -> dict[str, Any]:
    """Return config.json in the folder of local weights; empty if there is none, or none of ours.

    Raises ValueError if it is damaged.
    """
    path = Path(weights).parent / "config.json"
    if "://" in weights or not path.is_file():
        return {}
    if path.stat().st_size > MAX_CARD_BYTES:
        raise ValueError(f"{path} has more than {MAX_CARD_BYTES} bytes")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _right(victim: Victim, images: Split) -> Tensor:
    return classification.predictions(infer(victim, images.x_NCHW)) == images.y_N


def _with_moments(victim: Victim, mean: Three, std: Three) -> Victim:
    """Return the same classifier, which shares its weights, under another normalisation."""
    return Victim(
        victim.encoder, victim.head, torch.tensor(mean), torch.tensor(std), victim.entry
    ).eval()


def _is_better(other_N: Tensor, own_N: Tensor, margin: float) -> bool:
    """Whether another normalisation is right more often: by the margin, and beyond chance.

    McNemar's test at two deviations: only images count on which one of them alone is right.
    """
    gained = int((other_N & ~own_N).sum())
    lost = int((own_N & ~other_N).sum())
    return gained - lost > max(margin * len(own_N), 2 * math.sqrt(gained + lost))
