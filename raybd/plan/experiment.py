"""An experiment, resolved: its cells, and itself as a file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from typing import Any, cast

from raybd.canaries.canaries import Canaries
from raybd.cells.cell import Cell
from raybd.cells.resources import AllResources, Resources
from raybd.cells.stage import Stage, VictimStage, content_hash
from raybd.cells.wanted import Wanted
from raybd.plan.graph import (
    OpenData,
    Pretraining,
    Training,
    infeasible_attack,
    infeasible_defense,
    needs_stamp,
    no_attack,
    nothing_to_find,
    open_labels,
    too_few_trusted,
    victim_stage,
    with_trainer,
    with_trusted_data,
)
from raybd.registry import Method
from raybd.stages import kinds
from raybd.types.config import Precision
from raybd.types.kept import Kept

LAST = tuple(kind for kind in kinds() if kind.can_be("for_cell"))
CONTROLS = tuple(kind for kind in kinds() if kind.can_be("control_for_cell"))
EXTRAS = tuple(kind for kind in kinds() if kind.can_be("after_cell"))
"""The kinds of stages that may stand at the end of a cell's path, beside it, or behind it."""
FILE_ROLES = ("training_defenses", "detectors", "scanners", "repairs")
"""The lists of defenses of an experiment file."""

Refused = Callable[[Method | None, Training, int], str | None]
"""(defense, training, number of classes) -> why the defense cannot be applied, if so."""


@dataclass(frozen=True)
class Experiment:
    """What a YAML file asks for, with every default filled in."""

    name: str
    seeds: tuple[int, ...]
    datasets: tuple[Method, ...]
    attacks: tuple[Method, ...]
    trainings: tuple[Training, ...]
    """How undefended victims are trained."""
    defenses: tuple[Method, ...]
    """Detectors, scanners, repairs and training defenses. A training defense uses the network of
    the victim that it stands beside."""
    removal: bool
    """After each detector of the training set: drop what it flags, train again, measure. After a
    detector of test inputs: refuse the inputs that it flags, measure (and, for a probe, first drop
    what it flags of the training set and train again)."""
    resources: AllResources
    analyses: tuple[Method, ...] = ()
    """Tools that look at each victim, undefended or defended."""
    canaries: Canaries | None = None
    """Planted into the training set of each victim, to measure detectors without truth."""
    precision: Precision | None = None
    """What all its stages compute in, on every node; None: what is fastest on the node of each."""
    kept: Kept = Kept()
    """What is kept of its victims beside their numbers."""

    def pinned(self, precision: Precision) -> "Experiment":
        """Return it with a precision in which all its stages compute, and which their keys hold."""

        def pin(methods: tuple[Method, ...]) -> tuple[Method, ...]:
            return tuple(
                replace(
                    method,
                    precision=precision,
                    scan=method.scan and replace(method.scan, precision=precision),
                    encoder=method.encoder and replace(method.encoder, precision=precision),
                )
                for method in methods
            )

        return replace(
            self,
            # The benign control computes nothing, and clean twins share it.
            attacks=tuple(
                method if method.kind == no_attack().kind else replace(method, precision=precision)
                for method in self.attacks
            ),
            trainings=tuple(training.pinned(precision) for training in self.trainings),
            defenses=pin(self.defenses),
            analyses=pin(self.analyses),
            precision=precision,
        )

    def cells(self, opened: OpenData = open_labels) -> tuple[Cell, ...]:
        """Return the product of the lists, and find what is infeasible.

        Opens the data sets (labels and content hash, no images) by `opened`.
        """
        # For this call alone: the files of a data set may change between two plans.
        opened = cache(opened)
        # To find a reason may take a network, and it depends neither on attack nor on seed.
        refused = cache(infeasible_defense)
        cells: list[Cell] = []
        for dataset, attack, training in product(self.datasets, self.attacks, self.trainings):
            cells += self._cells_of(opened, refused, dataset, attack, training)
        # Names, hyperparameters, data and versions of all cells; not how and where they run.
        config_id = content_hash(sorted(cell.id for cell in cells))[:12]
        return tuple(replace(cell, config_id=config_id) for cell in cells)

    def _cells_of(
        self,
        opened: OpenData,
        refused: Refused,
        dataset: Method,
        attack: Method,
        training: Training,
    ) -> Iterator[Cell]:
        """The cells of one victim, over seeds and defenses."""
        planted, repeated = self._canary_methods()
        if self.canaries is not None:
            # As an error of the plan, and not of each of its cells.
            self.canaries.count(len(opened(dataset).labels_N), opened(dataset).trusted)
        no_victim = infeasible_attack(opened, dataset, attack, training)
        num_classes = opened(dataset).num_classes
        # Once for all seeds: no reason depends on the seed.
        defenses = [
            with_trainer(training.trainer, with_trusted_data(opened, defense))
            for defense in (None, *self.defenses)
        ]
        reasons = [
            (
                defense,
                no_victim
                or needs_stamp(attack, defense)
                or refused(defense, training, num_classes)
                or nothing_to_find(attack, defense)
                or too_few_trusted(opened, dataset, defense),
            )
            for defense in defenses
            # A training defense needs the poisoned set, and a probe's is in its encoder.
            if not (defense and defense.role == "training_defenses" and training.on_encoder)
        ]
        for seed in self.seeds:
            victim = victim_stage(opened, dataset, attack, training, seed, planted)
            # Without canaries: only cells of encoders compare with the twin, and these take none.
            twin = victim_stage(opened, dataset, no_attack(), training, seed)
            for defense, reason in reasons:
                wanted = Wanted(victim, twin, defense, self.removal, repeated, self.analyses)
                cell = Cell(
                    experiment=self.name,
                    dataset=dataset,
                    attack=attack,
                    trainer=training.trainer,
                    network=training.network,
                    defense=defense,
                    seed=seed,
                    victim=victim,
                    infeasible=reason,
                    kept=self.kept,
                    **_ends(wanted),
                )
                yield cell
                yield from _sequences(cell, wanted, reasons)

    def _canary_methods(self) -> tuple[Method | None, Method | None]:
        """How canaries are planted, and how verdicts are repeated.

        What is planted does not depend on the number of runs, so that victims are shared.
        """
        if self.canaries is None:
            return None, None
        once = self.canaries.model_copy(update={"runs": 1})
        planted = Method("attacks", "canaries", once, "canaries")
        # A single run has nothing to be compared with.
        if self.canaries.runs == 1:
            return planted, None
        return planted, Method("attacks", "canaries", self.canaries, "canaries")

    def resources_of(self, stage: Stage) -> Resources:
        """Return how a stage of this experiment runs."""
        return self.resources.of(stage.resource_role)

    def describe(self) -> dict[str, Any]:
        """Return it as an experiment file, resolved; paths are kept."""
        defenses = {
            role: [_entry(method) for method in self.defenses if method.role == role]
            for role in FILE_ROLES
        }
        return {
            "name": self.name,
            "seeds": list(self.seeds),
            "datasets": [_entry(method) for method in self.datasets],
            "attacks": [_entry(method) for method in self.attacks],
            "trainers": [_training_entry(training) for training in self.trainings],
            **defenses,
            **({"analyses": [_entry(method) for method in self.analyses]} if self.analyses else {}),
            "removal": self.removal,
            "resources": self.resources.model_dump(mode="json", exclude_none=True),
            **({"canaries": self.canaries.model_dump(mode="json")} if self.canaries else {}),
            **({"precision": self.precision} if self.precision else {}),
            # Without the usual ones: files of older stores stay as they are.
            **{
                f"keep_{name}": value
                for name, value in asdict(self.kept).items()
                if value != asdict(Kept())[name]
            },
        }


def _sequences(
    cell: Cell, wanted: Wanted, reasons: Sequence[tuple[Method | None, str | None]]
) -> Iterator[Cell]:
    """The cells of the detectors and scanners that look at the victim of a cell's defense."""
    followers = cell.defense.then if cell.defense is not None else ()
    known = {method.name: (method, reason) for method, reason in reasons if method is not None}
    for name in followers:
        follower, reason = known[name]
        # It judges: what is flagged of a defended victim's training set is not removed again.
        judging = Wanted(
            cast(VictimStage, cell.last), wanted.twin, follower, False, wanted.canaries
        )
        yield replace(
            cell,
            defense=follower,
            judged=judging.victim,
            infeasible=cell.infeasible or reason,
            **_ends(judging),
        )


def _ends(wanted: Wanted) -> dict[str, Any]:
    """The end of a cell's path, what stands beside it, and what stands behind it."""
    last = last_stage(wanted)
    return {
        "last": last,
        "control": _only(kind.control_for_cell(wanted) for kind in CONTROLS),
        "extras": tuple(stage for kind in EXTRAS for stage in kind.after_cell(wanted, last)),
    }


def last_stage(wanted: Wanted) -> Stage:
    """Return the end of a cell's path: of its stages, the one that no other one reads."""
    stages = [stage for kind in LAST if (stage := wanted.stage(kind)) is not None]
    # By identity: to compare keys takes long in a plan of thousands of cells.
    read = {id(upstream) for stage in stages for upstream in stage.inputs.values()}
    return _only(stage for stage in stages if id(stage) not in read) or wanted.victim


def _only(stages: Iterator[Stage | None]) -> Stage | None:
    """The one stage among them, if there is one."""
    found = [stage for stage in stages if stage is not None]
    if len(found) > 1:
        raise AssertionError(f"several stages claim one place: {[stage.name for stage in found]}")
    return found[0] if found else None


def _entry(method: Method) -> dict[str, Any]:
    """A method as an entry of an experiment file."""
    values = dict(method.config)
    # A key leaves paths out (`exclude`), but an experiment file cannot do without them.
    paths = {
        name: str(values[name])
        for name, info in type(method.config).model_fields.items()
        if info.exclude and values[name] is not None
    }
    entry: dict[str, Any] = {"kind": method.kind}
    if method.name != method.kind:
        entry["name"] = method.name
    if method.trusted is not None:
        dataset = method.trusted.dataset
        own = {"dataset": _entry(dataset)} if dataset else {}
        entry["trusted"] = {**own, "poisoned": method.trusted.poisoned}
    if method.side_data is not None:
        entry["side_data"] = _entry(method.side_data)
    if method.scan is not None:
        entry["scan"] = _entry(method.scan)
    if method.then:
        entry["then"] = list(method.then)
    if method.encoder is not None:
        entry["encoder"] = {"trainer": _entry(method.encoder)}
    if method.oracle:
        entry["oracle"] = True
    return {**entry, **paths, **method.config.model_dump(mode="json")}


def _training_entry(training: Training) -> dict[str, Any]:
    described = {**_entry(training.trainer), "network": _entry(training.network)}
    source = training.source
    if source is None:
        return described
    return {**described, **_source_entry(source)}


def _source_entry(source: Pretraining) -> dict[str, Any]:
    inner = _training_entry(source.training)
    inner.pop("network")  # the network stands in the entry around it
    named = {"dataset": source.dataset, "attack": source.attack}
    start = {role: _entry(method) for role, method in named.items() if method}
    return {"encoder" if source.attack is None else "source": {**start, "trainer": inner}}
