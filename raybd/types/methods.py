"""The roles: what a method of each role offers, and what it declares about itself.

A method derives from the class of its role and overrides what differs from the defaults. The
classes have no fields, so that a key holds a method's own fields alone.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from torch import Generator, Tensor, nn

from raybd.types.config import Config
from raybd.types.data import Dataset, LabelMap, Part, Poisoned, Pool, Source, Split
from raybd.types.kept import Stored
from raybd.types.models import Network, Victim
from raybd.types.verdicts import Defended, Suspicion

if TYPE_CHECKING:
    import pyarrow as pa

ThreatModel = Literal["none", "data", "training", "encoder"]
"""What an attacker controls: nothing (the benign control), training data, training, an encoder."""
RateBasis = Literal["of_dataset", "of_class"]
"""Whether a poison rate is a share of the training set, or of the target class."""
Feature = Literal["embedding", "logits"]
"""What a detector may read of all suspects; it is computed once for each victim."""


class DatasetMethod(Config):
    """A data set."""

    @abstractmethod
    def source(self) -> Source:
        """Open it. Raises UserError where it cannot be had."""

    @abstractmethod
    def split(self, source: Source) -> dict[Part, tuple[Pool, Tensor]]:
        """Return which rows of which part make up train, clean and test."""

    @abstractmethod
    def load(self) -> Dataset:
        """Read and split it."""


@dataclass(frozen=True)
class AttackInput:
    """What an attack is given; what it did not ask for is None, or empty."""

    train: Split
    """The clean training set."""
    num_classes: int
    twin: Victim | None = None
    """The clean twin, if `needs_twin`: a victim of the same recipe, trained without poison."""
    network: Network | None = None
    """The architecture of the victim, if the attack controls training."""
    recipe: Config | None = None
    """The trainer of the victim, if the attack `follows_recipe`."""
    retrain: Callable[[Split, Generator], Victim] | None = None
    """Trains a victim of the same recipe on another training set, if the attack `retrains`."""
    side_data: Split | None = None
    """Images of another data set, if the attack reads `side_data` and the experiment names one."""
    prepared: Mapping[str, Tensor] = field(default_factory=dict)
    """What `prepare` returned; it is computed once for all poison rates and label maps."""
    role_N: Tensor | None = None
    """Which training images came poisoned, if the attack `reads_flags`."""


class Attack(Config):
    """An attack on training data, on training, or on an encoder."""

    threat_model: ClassVar[ThreatModel] = "data"
    """`data`: only images and labels change. `training`: `poison` returns the victim, too.
    `encoder`: `poison` turns the clean encoder (its twin) into a backdoored one and returns it."""
    rate_basis: ClassVar[RateBasis | None] = "of_dataset"
    """What the field `rate` is a share of; None: the attack has no rate."""
    needs_twin: ClassVar[bool] = False
    """Whether it needs the clean twin."""
    retrains: ClassVar[bool] = False
    """Whether it trains victims while it looks for its poison."""
    follows_recipe: ClassVar[bool] = False
    """Whether an attack that controls training trains as the experiment's trainer would. Without
    it, victims under different trainers would be one and the same."""
    reads_side_data: ClassVar[bool] = False
    """Whether an entry may name another data set, side_data: {kind: ...}."""
    prepared_from: ClassVar[tuple[str, ...]] = ()
    """The fields that `prepare` depends on; empty: there is nothing to prepare."""
    has_trigger: ClassVar[bool] = True
    """False for a control that changes labels or images and installs no backdoor, and where the
    trigger is not at hand: then there is no attack success."""
    selects: ClassVar[bool] = False
    """Whether it selects its rows by what images show, or by what a model says of them. What
    `choose` returns are then the candidates."""
    chooses_test: ClassVar[bool] = False
    """Whether what images show is the trigger: nothing is stamped, and the test images that count
    are those of `choose_test`."""
    poisons_training_set: ClassVar[bool] = True
    """False for an attack that controls training and changes no training image: then there is
    nothing to find in the training set, and nothing that a training on it could be kept from."""
    reads_flags: ClassVar[bool] = False
    """Whether its poison is what the flags of the data set tell, which nobody else may read. The
    true labels of such images are not known."""

    @property
    @abstractmethod
    def label_map(self) -> LabelMap:
        """What happens to the labels."""

    @property
    def poison_rate(self) -> float | None:
        """Share of the training set, or of the target class, that is poisoned; None: no rate."""
        return None

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return why the trigger does not fit into images of this size (in pixels), if so.

        It is asked before `prepare` and `poison`, which may then rely on it.
        """
        return None

    def cannot_train_as(self, trainer: Config) -> str | None:
        """Return why it cannot train victims as this trainer would, if so: a plan asks.

        Only attacks that control training do. They train from scratch, by a recipe.
        """
        if self.threat_model != "training":
            return None
        if isinstance(trainer, Trainer) and trainer.only_a_recipe:
            # Its loss is another one, so that it would leave these out without a word.
            left_out = trainer.beyond_recipe()
            return left_out and f"it trains the victim by a loss of its own, without {left_out}"
        return "it trains the victim from scratch: take a trainer that does so, like supervised"

    @abstractmethod
    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return the rows to poison, ascending. Raises Infeasible.

        If the attack `selects`, they are the candidates. It needs labels only, so that a plan can
        call it before anything is scheduled.
        """

    def prepare(self, given: AttackInput, rng: Generator) -> dict[str, Tensor]:
        """Compute what depends on neither poison rate nor label map; see `prepared_from`."""
        return {}

    @abstractmethod
    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Poison the training set. An attack that controls training returns its victim in it."""

    @abstractmethod
    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the trigger, uint8."""

    def stamp_toward(self, x_NCHW: Tensor, wanted_N: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies with the trigger that asks for the wanted labels; by default, `stamp`."""
        return self.stamp(x_NCHW, state)

    def choose_test(self, x_NCHW: Tensor, y_N: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return a mask of the test images that count; by default, those of the label map."""
        return self.label_map.counted(y_N)


class Trainer(Config):
    """A way to train a victim."""

    only_a_recipe: ClassVar[bool] = False
    """Whether its fields say all that it does: a recipe (training/recipe.py) for a classifier from
    scratch, with cross-entropy. An attack that controls training can then train as it would."""

    trains: ClassVar[bool] = True
    """False: it takes a victim that exists. Then no attack that needs a victim of the same recipe
    can be mounted, and nothing is trained again without what a detector flags."""

    def beyond_recipe(self) -> str | None:
        """Return what it does that no training with another loss could follow, if anything."""
        return None

    def shapes(self) -> dict[str, tuple[int, ...]] | None:
        """Return the shapes of the weights that it will take, by name, if it takes any.

        A plan asks where an experiment names no network. Raises UserError if they can't be read.
        """
        return None

    def own_network(self) -> dict[str, object] | None:
        """Return the entry of the network that its weights say they are of, if they do."""
        return None

    def check(self, victim: Victim, trusted: Split) -> None:
        """Raise UserError if the trusted images speak against a victim that it took."""

    def reshape(self, victim: Victim, state: Mapping[str, Tensor]) -> None:
        """Give a victim that was just built the modules that `state` has weights for.

        Only for a trainer that hands out other modules than its network builds.
        """

    @abstractmethod
    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """Train a victim on a (poisoned) split."""


class TransferTrainer(Trainer):
    """A trainer that starts from a trained network: fine-tuning, or a probe."""

    @abstractmethod
    def train_from(
        self,
        start: Victim | None,
        split: Split,
        num_classes: int,
        network: Network,
        rng: Generator,
    ) -> Victim:
        """Train on a (poisoned) split from `start`; None: from the network's pretrained weights."""

    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """Train from the network's pretrained weights."""
        return self.train_from(None, split, num_classes, network, rng)


class Defense(Config):
    """What all defenses declare."""

    @property
    def fewest_trusted(self) -> int:
        """Fewest trusted images that it can work with; a plan asks before anything runs."""
        return 1

    def cannot(self, encoder: nn.Module, num_classes: int) -> str | None:
        """Return why the defense cannot be applied to such a network, if so.

        The encoder has no weights (it lies on the meta device): a plan asks before anything runs.
        """
        return None

    def following(self, trainer: Config) -> Self:
        """Return the defense with what it takes over from the trainer of the victim, if anything.

        A plan asks for it before it makes keys, so that they hold what is run.
        """
        return self


class TrainingDefense(Defense):
    """A training that is a defense: a clean model from a poisoned training set."""

    def reshape(self, victim: Victim, state: Mapping[str, Tensor]) -> None:
        """See `Trainer.reshape`."""

    @abstractmethod
    def defend(
        self, split: Split, num_classes: int, network: Network, clean: Split, rng: Generator
    ) -> Defended:
        """Train a clean model on a poisoned split."""


class StartedDefense(TrainingDefense):
    """A training defense that may start from an encoder, which has seen the poisoned split."""

    @property
    def needs_start(self) -> bool:
        """Whether it cannot do without one: a plan asks."""
        return True

    @abstractmethod
    def defend_from(
        self,
        start: Victim | None,
        split: Split,
        num_classes: int,
        network: Network,
        clean: Split,
        rng: Generator,
    ) -> Defended:
        """Train a clean model on a poisoned split from `start`, which has no head and must not
        change; None where the experiment names no encoder."""

    def defend(
        self, split: Split, num_classes: int, network: Network, clean: Split, rng: Generator
    ) -> Defended:
        """Train without an encoder."""
        return self.defend_from(None, split, num_classes, network, clean, rng)


class Detector(Defense):
    """A way to find poisoned or triggered samples."""

    pools: ClassVar[tuple[Pool, ...]] = ("train",)
    """What it can score: the training set, a stream of test inputs, or both. A detector of both
    has a field `pool`."""

    @property
    def scored_pool(self) -> Pool:
        """What it scores: the field `pool`, or the only one that it can."""
        # A detector of one pool need not have the field.
        chosen: Pool = dict(self).get("pool", self.pools[0])
        return chosen

    @property
    def reads(self) -> frozenset[Feature]:
        """What it reads of all suspects (`Split.z_ND`, `Split.logits_NK`)."""
        return frozenset()

    @abstractmethod
    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Score every suspect. In the test pool their labels are the victim's own predictions."""


class StreamDetector(Detector):
    """A detector that learns from victim and trusted images, and can then score any stream."""

    @abstractmethod
    def learn(self, victim: Victim, clean: Split, rng: Generator) -> Callable[[Split], Suspicion]:
        """Return what scores a stream."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Learn, then score the suspects."""
        return self.learn(victim, clean, rng)(suspects)


class Scanner(Defense):
    """A way to tell whether a whole model hides a backdoor."""

    @abstractmethod
    def scan(self, victim: Victim, clean: Split, rng: Generator) -> Suspicion:
        """Return one score and one threshold for the model. Pictures show what was found."""


class Repair(Defense):
    """A way to make a poisoned victim clean."""

    def reshape(self, victim: Victim, state: Mapping[str, Tensor]) -> None:
        """See `Trainer.reshape`."""

    @abstractmethod
    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return a repaired copy; the suspects are the victim's (poisoned) training set."""


class ScannedRepair(Repair):
    """A repair that stands on a scan: of what a scanner found, it makes the victim clean.

    The scan is a stage of its own, computed once for the scanner and for all repairs on it.
    """

    scanner: ClassVar[str]
    """The kind of the scanner. An entry may set its fields, scan: {rounds: 80}."""

    @abstractmethod
    def repair_with(
        self,
        found: Mapping[str, Tensor],
        victim: Victim,
        suspects: Split,
        clean: Split,
        rng: Generator,
    ) -> Defended:
        """Return a repaired copy; `found` are the tensors of the scan (`Suspicion.tensors`)."""

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Repair as after a scan that found nothing."""
        return self.repair_with({}, victim, suspects, clean, rng)


@dataclass(frozen=True)
class Pairs:
    """The test images on which attack success counts, without and with the trigger, row by row."""

    x_MCHW: Tensor
    worn_MCHW: Tensor
    """The same images with the trigger."""
    y_M: Tensor
    """Their true labels."""
    wanted_M: Tensor
    """The labels that the attacker wants."""

    def __len__(self) -> int:
        return len(self.y_M)


@dataclass(frozen=True)
class AnalysisInput:
    """What an analysis may look at. It is no defense: it knows the truth."""

    victim: Victim
    clean: Split
    """The trusted images of the defender."""
    pairs: Pairs
    test: Split
    """All test images."""
    train: Split
    """The training set with its poison."""
    role_N: Tensor
    """What each training image is: a number of SAMPLE_ROLES."""
    num_classes: int
    trigger: Callable[[Tensor, Tensor], Tensor]
    """Copies of images NCHW with the trigger, toward the wanted labels N."""
    twin: Victim | None = None
    """The clean twin, if `needs_twin`: a victim of the same recipe, trained without poison."""
    attack: Attack | None = None
    """The attack, with its fields."""
    state: Mapping[str, Tensor] = field(default_factory=dict)
    """What its trigger needs beyond the fields."""
    predictions: "pa.Table | None" = None
    """What the victim says of each test image, if the tool `reads` predictions."""
    before: "pa.Table | None" = None
    """The same of the undefended victim, for a defended one, if the tool `compares_before`."""
    dynamics: "pa.Table | None" = None
    """How the victim did after each epoch, if the tool `reads` dynamics and they were kept."""
    trajectories: Mapping[str, Tensor] = field(default_factory=dict)
    """Loss, margin and correctness of each training image after each epoch, if the tool `reads`
    trajectories and they were kept."""


class Analysis(Config):
    """A tool that looks at a victim and returns a table, from which a picture can be drawn.

    It changes no number of a cell. If it trains, it trains a copy.
    """

    needs_trigger: ClassVar[bool] = False
    """Whether it compares images without and with the trigger; there are none without an attack."""
    needs_twin: ClassVar[bool] = False
    """Whether it compares the victim with its clean twin; it does not look at the twin alone."""
    looks_at_twin: ClassVar[bool] = False
    """Whether it also looks at the clean twin of an attacked victim, with the attack's trigger."""
    reads: ClassVar[frozenset[Stored]] = frozenset()
    """What it reads that was kept of the victim. Predictions are made again if they were not kept;
    where dynamics and trajectories were not, there is nothing to say, and no rows."""
    compares_before: ClassVar[bool] = False
    """Whether it compares the predictions of a defended victim with those of the undefended one."""

    @abstractmethod
    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return a table of any number of rows; the stage adds which victim it is about."""
