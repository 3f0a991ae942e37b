"""The words of raybd: the data that flows between the stages, and the protocol of each role.

Shapes stand in the names: N samples, M changed samples, B batch, C channels, H height, W width, K classes, D embedding width.
Images outside of networks are uint8, 0..255; labels are int64. Suspicion is higher = more suspicious, always.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor, nn

from raybd.errors import Infeasible as Infeasible
from raybd.errors import UserError as UserError

Pool = Literal["train", "test"]
"""What a detector scores: the whole training set, or a stream of test inputs."""

CLEAN, POISON, CROSS = 0, 1, 2
_STAMPED_AT_ONCE = 500
ROLES = ("clean", "poison", "cross")
"""Truth about a sample. `cross`: changed like poison, but with its true label (WaNet's noise samples); a negative for detectors."""


HALFWAY = ("auroc", "average_precision", "separation", "canary_auroc", "canary")
"""What scores are worth is told of detectors that pass them to `runtime.halfway`."""


class Config(BaseModel):
    """What to run: frozen, hashable, JSON. A method is one subclass whose fields are its hyperparameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)

    version: ClassVar[int] = 1
    """Part of every stage key: raise it when a change of the code changes the numbers."""
    halfway: ClassVar[tuple[str, ...]] = ()
    """What can be told of it after each epoch, so that a sweep may stop it early."""


def searched(**space: Any) -> dict[str, Any]:
    """The `json_schema_extra` of a field that a sweep may search: choices=[...], or low=, high= and log=True."""
    return {"search": space}


@dataclass(frozen=True)
class Split:
    """Images and labels of one part of a data set."""

    x_NCHW: Tensor
    y_N: Tensor
    class_names: tuple[str, ...] = ()
    """What the labels are called, for methods that read; empty where nobody said."""
    z_ND: Tensor | None = None
    """The images as the victim embeds them, where a stage before has computed that; `fit.embeddings` reads it."""

    def __len__(self) -> int:
        return len(self.y_N)

    def select(self, rows: Tensor) -> "Split":
        """A copy of some rows (indices or a mask)."""
        z_ND = None if self.z_ND is None else self.z_ND[rows]
        return replace(self, x_NCHW=self.x_NCHW[rows], y_N=self.y_N[rows], z_ND=z_ND)


@dataclass(frozen=True)
class Dataset:
    """Three disjoint parts. `clean` is what the defender trusts: held out of the training images, never taken from test."""

    class_names: tuple[str, ...]
    train: Split
    clean: Split
    test: Split

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True)
class Source:
    """A data set as it lies on disk: its labels at once, its images on demand."""

    class_names: tuple[str, ...]
    train_y_N: Tensor
    test_y_N: Tensor
    read: Callable[[Pool, Tensor], Tensor]
    """(part, rows) -> x_NCHW of these rows, uint8."""
    fingerprint: str
    """Hash of the content; where the data lies plays no part."""


class LabelMap(Protocol):
    """Which images may be poisoned, what label they are given, and on which test images success is counted."""

    def relabel(self, y_N: Tensor, num_classes: int) -> Tensor:
        """The label that a poisoned training image is given."""

    def wanted(self, y_N: Tensor, num_classes: int) -> Tensor:
        """The label that the attacker wants for a triggered test image."""

    def eligible(self, y_N: Tensor) -> Tensor:
        """Mask of the training images that may be poisoned."""

    def counted(self, y_N: Tensor) -> Tensor:
        """Mask of the test images on which attack success is measured."""


class Stamp(Protocol):
    """Puts the trigger on images."""

    def __call__(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Copies of the images with the trigger, uint8; `state` is what the trigger needs beyond the attack's config."""


def stamped(stamp: Stamp, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Copies of the images with the trigger. A part at a time: triggers compute in float, which would fill memory."""
    x_NCHW = x_NCHW.clone()
    for part_BCHW in x_NCHW.split(_STAMPED_AT_ONCE):
        part_BCHW.copy_(stamp(part_BCHW, state))
    return x_NCHW


@dataclass(frozen=True)
class Poisoned:
    """An overlay over a clean training split: the changed rows, their images, labels and roles, and the trigger."""

    index_M: Tensor
    x_MCHW: Tensor
    y_M: Tensor
    role_M: Tensor
    trigger: Callable[[Tensor], Tensor]
    """x_NCHW -> x_NCHW with the trigger, uint8; what the attacker does at test time."""
    labels: LabelMap
    state: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors that the trigger needs beyond the attack's config (a pattern, a warping grid); stored with the overlay."""

    def over(self, train: Split) -> Split:
        """The training split as the victim sees it."""
        if not len(self.index_M):
            return train
        x_NCHW, y_N = train.x_NCHW.clone(), train.y_N.clone()
        x_NCHW[self.index_M], y_N[self.index_M] = self.x_MCHW, self.y_M
        return replace(train, x_NCHW=x_NCHW, y_N=y_N)

    def role_N(self, n: int) -> Tensor:
        """The truth about each of the n training images, int8."""
        role_N = torch.zeros(n, dtype=torch.int8)
        role_N[self.index_M] = self.role_M
        return role_N


class Network(Protocol):
    """An architecture."""

    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Freshly initialised (encoder, head): float x_BCHW -> z_BD, and z_BD -> logits_BK. Draws from torch's global stream."""


Template = Annotated[str, Field(pattern=r"\{\}")]
Templates = Annotated[tuple[Template, ...], Field(min_length=1)] | Literal["imagenet"]
"""Sentences with {} where the name of a class goes; imagenet: the 80 of CLIP's authors."""


@runtime_checkable
class Captioned(Protocol):
    """An encoder that reads, too: images and texts share one space of embeddings, as in CLIP."""

    def reader(self) -> nn.Module:
        """All of it that plays no part in embedding images; without gradients unless someone trains it."""

    def captions(self, class_names: Sequence[str], templates: Templates) -> list[str]:
        """Each name in each template, the templates of a name in a row. Raises UserError where there are no names."""

    def describe(self, texts: Sequence[str]) -> Tensor:
        """z_MD of texts, of any length, where the model lies; gradients flow."""

    def factor(self) -> Tensor:
        """What a cosine of an image with a text is multiplied by to be a logit."""

    def contrast(self, z_BD: Tensor, texts: Sequence[str], y_B: Tensor) -> Tensor:
        """How badly the embeddings of a whole batch of images fit their texts; alike are those of one label."""


class Victim(nn.Module):
    """A model under attack: an encoder, a head (none for a self-supervised encoder), and its own preprocessing of uint8 images."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, encoder: nn.Module, head: nn.Module | None, mean_C: Tensor, std_C: Tensor) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.register_buffer("mean_C", mean_C.float())
        self.register_buffer("std_C", std_C.float())

    def preprocess(self, x_BCHW: Tensor) -> Tensor:
        """uint8 images -> what the encoder takes."""
        shift_C, scale_C = -self.mean_C / self.std_C, 1 / (255 * self.std_C)
        return torch.addcmul(shift_C.view(-1, 1, 1), x_BCHW.float(), scale_C.view(-1, 1, 1))

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """uint8 images -> z_BD."""
        z_BD: Tensor = self.encoder(self.preprocess(x_BCHW))
        return z_BD

    def forward(self, x_BCHW: Tensor, with_embedding: bool = False) -> Any:
        """uint8 images -> logits_BK, or z_BD where there is no head; (logits_BK, z_BD) where both are asked for."""
        z_BD = self.embed(x_BCHW)
        out = z_BD if self.head is None else self.head(z_BD)
        return (out, z_BD) if with_embedding else out


@dataclass(frozen=True)
class Suspicion:
    """A detector's verdict: flagged is score > threshold."""

    score_N: Tensor
    """float32; higher = more suspicious."""
    threshold_N: Tensor
    """float32, one per sample, found without any ground truth."""
    oracle: bool = False
    """True where the threshold or the score used knowledge that a defender lacks."""
    warning: str | None = None
    """Why this verdict should not be trusted, found without any ground truth."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """Numbers that the method has about itself, found without any ground truth."""
    parts_NHW: Tensor | None = None
    """How the score is made up over the image, on a grid of any size; it sums to the score."""
    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    """What the method saw of a few images, uint8, each n x C x H x W; under `rows` which of the suspects they are."""


@dataclass(frozen=True)
class Defended:
    """What a training that is a defense leaves behind."""

    victim: Victim
    verdict: Suspicion | None = None
    """Suspicion of each training image, where the method has one."""
    warning: str | None = None
    """Why its result should not be trusted, found without any ground truth."""


class DatasetMethod(Protocol):
    """A data set: datasets/NAME.py."""

    def source(self) -> Source:
        """Open it. Raises UserError where it can't be had."""

    def split(self, source: Source) -> dict[str, tuple[Pool, Tensor]]:
        """Which rows of which part make up train, clean and test."""

    def load(self) -> Dataset:
        """Read and split it."""


class Attack(Protocol):
    """An attack: attacks/NAME.py. It has one of the three verbs of the protocols below."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """The rows to poison, ascending. Raises Infeasible. Needs labels only, so a plan calls it before anything is scheduled."""

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Copies of the images with the trigger, uint8."""

    @property
    def label_map(self) -> LabelMap:
        """What happens to the labels."""


class DataAttack(Attack, Protocol):
    """An attack that changes data and needs nothing else."""

    def poison(self, train: Split, num_classes: int, rng: Generator) -> Poisoned:
        """Poison a share of the training images."""


@runtime_checkable
class TwinAttack(Attack, Protocol):
    """An attack that changes data with the help of the clean twin: a victim of the same recipe, trained without poison."""

    def poison_with_twin(self, train: Split, num_classes: int, twin: Victim, rng: Generator) -> Poisoned:
        """Poison a share of the training images."""


@runtime_checkable
class TrainingAttack(Attack, Protocol):
    """An attack that controls training."""

    def poison_and_train(self, train: Split, num_classes: int, network: Network, rng: Generator) -> tuple[Poisoned, Victim]:
        """The victim that the attacker hands out, and its poison as an overlay, which defenses and retraining get to see."""


@runtime_checkable
class EncoderAttack(Attack, Protocol):
    """An attack that turns a clean encoder into a backdoored one."""

    def infect(self, encoder: Victim, train: Split, num_classes: int, rng: Generator) -> tuple[Poisoned, Victim]:
        """The encoder that the attacker hands out, and its trigger, as an overlay that changes no training image."""


class Trainer(Protocol):
    """A way to train a victim: trainers/NAME.py."""

    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """Train a victim on a (poisoned) split."""


@runtime_checkable
class TransferTrainer(Protocol):
    """A trainer that goes on from a network that is trained already: fine-tuning, or a probe.

    One whose heads are not linear has `head_for(state)` too: an empty head of the shape of its stored tensors.
    """

    def train_from(self, start: Victim | None, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """Train on a (poisoned) split from `start`, or from the network's own pretrained weights where it is None."""


@runtime_checkable
class DefendingTrainer(Protocol):
    """A trainer that is itself a defense."""

    def defend(self, split: Split, num_classes: int, network: Network, clean: Split, rng: Generator) -> Defended:
        """Train a clean model on a poisoned split."""


class Detector(Protocol):
    """A way to find poisoned or triggered samples: detectors/NAME.py.

    One that asks `fit.embeddings` for all suspects says `embeds = True`: they are then computed once for each victim.
    """

    @property
    def pool(self) -> Pool:
        """What it scores."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Score every suspect. In the test pool the suspects' labels are the victim's own predictions."""


@runtime_checkable
class StreamDetector(Protocol):
    """A detector that learns from the victim and from trusted images alone, and can then score any stream of inputs."""

    def learn(self, victim: Victim, clean: Split, rng: Generator) -> Callable[[Split], Suspicion]:
        """What scores a stream. `score` is this, called once with the suspects."""


class Scanner(Protocol):
    """A way to tell whether a whole model hides a backdoor: scanners/NAME.py."""

    def scan(self, victim: Victim, clean: Split, rng: Generator) -> Suspicion:
        """Suspicion of the model: one score, one threshold. Pictures show what was found, one image each; there are no `rows`."""


class Repair(Protocol):
    """A way to make a poisoned victim clean: repairs/NAME.py."""

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Victim:
        """A repaired copy of the victim; the suspects are its (poisoned) training split."""


Report = Callable[[Mapping[str, Any]], None]
"""Receives what a running stage has to say: {"name", "epoch", "epochs", metrics...}."""
