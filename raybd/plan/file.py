"""Reading an experiment file: YAML -> Experiment.

The name of a list is a folder, `kind` is a file in it, the other keys are the method's fields;
`name` is what the tables show. An entry with `each` stands for several.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, ValidationError

from raybd.canaries.canaries import Canaries
from raybd.cells.resources import AllResources
from raybd.plan import entries, variants
from raybd.plan.experiment import Experiment
from raybd.plan.graph import Training
from raybd.plan.own_modules import make_importable
from raybd.plan.places import with_absolute_paths
from raybd.plan.validation import user_error
from raybd.plan.variants import Places
from raybd.plan.yaml_file import read
from raybd.registry import Method, Role, did_you_mean
from raybd.types.config import Config
from raybd.types.errors import UserError
from raybd.types.kept import Kept, KeptPredictions
from raybd.types.methods import Attack, Trainer

MAX_CELLS = 100_000
"""Cells of an experiment. A plan of so many takes minutes, and so do its tables."""
MAX_SEED = 2**63
"""Seeds are whole numbers of the tables."""

Entries = tuple[dict[str, Any], ...]


class ExperimentFile(Config):
    """An experiment file; each list entry is {kind: FILE, FIELD: VALUE, ...}, or FILE alone."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=120)
    seeds: tuple[Annotated[int, Field(ge=-MAX_SEED, lt=MAX_SEED)], ...] = Field((0,), min_length=1)
    datasets: Entries = Field(min_length=1)
    attacks: Entries = Field(min_length=1)
    trainers: Entries = Field(min_length=1)
    training_defenses: Entries = ()
    detectors: Entries = ()
    scanners: Entries = ()
    repairs: Entries = ()
    analyses: Entries = ()
    removal: bool = False
    resources: AllResources = AllResources()
    canaries: Canaries | None = None
    precision: Literal["auto", "fp32"] = "auto"
    keep_predictions: KeptPredictions = "labels"
    keep_dynamics: bool = True
    keep_trajectories: bool = False


def load(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file; an override is `attacks.0.rate=0.05`.

    Modules beside the file can be kinds with a dot. Raises UserError that names the file and the
    field.
    """
    raw = read(path, overrides, "an experiment file, like configs/quickstart.yaml")
    make_importable(Path(path).parent, raw)
    return parse(raw, str(path))


def parse(raw: Mapping[str, Any], where: str = "experiment") -> Experiment:
    """Validate an experiment given as a mapping.

    Relative paths of data sets are relative to the working folder.
    """
    full, places = variants.expanded(raw, where)
    try:
        file = ExperimentFile.model_validate(with_absolute_paths(full, Path.cwd()))
    except ValidationError as error:
        raise user_error(error, where, ExperimentFile) from error

    _refuse_too_many(file, where)
    trainings, defending = _trainers(file, places, where)
    asked = Experiment(
        name=file.name,
        seeds=file.seeds,
        datasets=tuple(
            entries.method("datasets", entry, f"{where}: {places.of('datasets', i)}")
            for i, entry in enumerate(file.datasets)
        ),
        attacks=tuple(
            entries.attack(entry, f"{where}: {places.of('attacks', i)}")
            for i, entry in enumerate(file.attacks)
        ),
        trainings=trainings,
        defenses=(
            *_defenses("detectors", file.detectors, places, where),
            *_defenses("scanners", file.scanners, places, where),
            *_defenses("repairs", file.repairs, places, where),
            *defending,
        ),
        analyses=tuple(
            entries.method("analyses", entry, f"{where}: {places.of('analyses', i)}")
            for i, entry in enumerate(file.analyses)
        ),
        removal=file.removal,
        resources=file.resources,
        canaries=file.canaries,
        kept=Kept(file.keep_predictions, file.keep_dynamics, file.keep_trajectories),
    )
    experiment = asked if file.precision == "auto" else asked.pinned(file.precision)
    _refuse_repeats(experiment, where)
    _refuse_unknown_followers(experiment, where)
    _refuse_canaries(experiment, where)
    return experiment


def _defenses(role: Role, listed: Entries, places: Places, where: str) -> tuple[Method, ...]:
    return tuple(
        entries.defense(role, entry, f"{where}: {places.of(role, i)}")
        for i, entry in enumerate(listed)
    )


def _trainers(
    file: ExperimentFile, places: Places, where: str
) -> tuple[tuple[Training, ...], tuple[Method, ...]]:
    """How victims are trained, and the training defenses, which may stand in either list."""
    trainings: list[Training] = []
    defending: list[Method] = []
    for i, entry in enumerate(file.trainers):
        at = f"{where}: {places.of('trainers', i)}"
        if entries.is_training_defense(entry):
            defending.append(entries.training_defense(entry, at))
        else:
            trainings.append(entries.training(entry, at))
    for i, entry in enumerate(file.training_defenses):
        at = f"{where}: {places.of('training_defenses', i)}"
        defending.append(entries.training_defense(entry, at))

    # A grid of training defenses alone would have no cells: they stand beside victims.
    if not trainings:
        raise UserError(
            f"{where}: trainers: {defending[0].kind} is a training defense, and there is no "
            "victim for it to stand beside",
            "Add the training that it is compared with: {kind: supervised, network: small_cnn}.",
        )
    return tuple(trainings), tuple(defending)


def _refuse_too_many(file: ExperimentFile, where: str) -> None:
    """Refuse lists whose product no plan can hold, before any of it is made."""
    defenses = (file.training_defenses, file.detectors, file.scanners, file.repairs)
    # What is no list is refused later.
    followers = [
        entry.get("then") for entry in (*file.trainers, *file.training_defenses, *file.repairs)
    ]
    sequences = sum(len(names) for names in followers if isinstance(names, list))
    # Without a defense, the victim itself is a cell.
    lists = {
        "datasets": len(file.datasets),
        "attacks": len(file.attacks),
        "trainers": len(file.trainers),
        "seeds": len(file.seeds),
        "defenses": 1 + sum(map(len, defenses)) + sequences,
    }
    count = prod(lists.values())
    if count > MAX_CELLS:
        shown = " x ".join(f"{many} {name}" for name, many in lists.items())
        raise UserError(
            f"{where}: {count} cells ({shown}); an experiment has at most {MAX_CELLS}",
            "Divide it into several files; they share victims and other stages in one store.",
        )


def _refuse_repeats(experiment: Experiment, where: str) -> None:
    """Rows are told apart by name, so that two entries of one kind need names of their own."""
    columns = {
        "datasets": [method.name for method in experiment.datasets],
        "attacks": [method.name for method in experiment.attacks],
        "trainers": [
            f"{training.trainer.name} on {training.network.name}"
            for training in experiment.trainings
        ],
        # "none" is the name of the undefended victim in the tables.
        "defenses": ["none", *(method.name for method in experiment.defenses)],
        "analyses": [method.name for method in experiment.analyses],
        "seeds": [str(seed) for seed in experiment.seeds],
    }
    for column, shown in columns.items():
        for name, many in Counter(shown).items():
            if many > 1:
                raise UserError(
                    f"{where}: {column}: {name!r} stands there twice",
                    "Remove one, or give each a name of its own: {kind: ..., name: ...}.",
                )


def _refuse_unknown_followers(experiment: Experiment, where: str) -> None:
    """Only detectors and scanners of the file can look at a defended victim, each of them once."""
    known = [
        method.name for method in experiment.defenses if method.role in ("detectors", "scanners")
    ]
    for defense in experiment.defenses:
        for name, many in Counter(defense.then).items():
            at = f"{where}: {defense.name}: then: {name!r}"
            if name not in known:
                hint = did_you_mean(name, known) if known else "List them there."
                raise UserError(f"{at} is no detector and no scanner of this file", hint)
            if many > 1:
                raise UserError(f"{at} stands there twice", "Remove one.")


def _refuse_canaries(experiment: Experiment, where: str) -> None:
    """If canaries were planted, no victim may be trained without them."""
    if experiment.canaries is None:
        return
    for training in experiment.trainings:
        if not cast(Trainer, training.trainer.config).trains:
            raise UserError(
                f"{where}: canaries: {training.trainer.name} takes a victim that was trained "
                "without them",
                "Remove canaries (or the objective that needs them), or train a victim.",
            )
        if training.on_encoder:
            raise UserError(
                f"{where}: canaries: {training.trainer.name} is a probe on an encoder, and no "
                "encoder is trained on canaries",
                "Remove canaries (or the objective that needs them), or train a classifier.",
            )
    for attack in experiment.attacks:
        if isinstance(attack.config, Attack) and attack.config.threat_model in (
            "training",
            "encoder",
        ):
            raise UserError(
                f"{where}: canaries: {attack.name} hands out a victim of its own, which is "
                "trained without them",
                "Remove canaries (or the objective that needs them), or take an attack that "
                "changes data only.",
            )
