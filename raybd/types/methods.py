"""The protocol of each role: what a method of that role has to offer."""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from torch import Generator, Tensor

from raybd.types.data import Dataset, LabelMap, Poisoned, Pool, Source, Split
from raybd.types.errors import Infeasible as Infeasible
from raybd.types.errors import UserError as UserError
from raybd.types.models import Network, Victim
from raybd.types.verdicts import Defended, Suspicion


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

    def poison_with_twin(
        self, train: Split, num_classes: int, twin: Victim, rng: Generator
    ) -> Poisoned:
        """Poison a share of the training images."""


@runtime_checkable
class TrainingAttack(Attack, Protocol):
    """An attack that controls training."""

    def poison_and_train(
        self, train: Split, num_classes: int, network: Network, rng: Generator
    ) -> tuple[Poisoned, Victim]:
        """The victim that the attacker hands out, and its poison as an overlay, which defenses and retraining get to see."""


@runtime_checkable
class EncoderAttack(Attack, Protocol):
    """An attack that turns a clean encoder into a backdoored one."""

    def infect(
        self, encoder: Victim, train: Split, num_classes: int, rng: Generator
    ) -> tuple[Poisoned, Victim]:
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

    def train_from(
        self, start: Victim | None, split: Split, num_classes: int, network: Network, rng: Generator
    ) -> Victim:
        """Train on a (poisoned) split from `start`, or from the network's own pretrained weights where it is None."""


@runtime_checkable
class DefendingTrainer(Protocol):
    """A trainer that is itself a defense."""

    def defend(
        self, split: Split, num_classes: int, network: Network, clean: Split, rng: Generator
    ) -> Defended:
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
