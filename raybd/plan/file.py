"""YAML -> Experiment: reading an experiment file, and saying what is wrong with one.

A list's name is a folder, `kind` is a file in it, the other keys are the method's fields; `name` is what stands in the tables.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from raybd.canaries.canaries import Canaries
from raybd.plan.experiment import AllResources, Experiment
from raybd.plan.graph import Pretraining, Training
from raybd.registry import Method, Role, Trusted, did_you_mean, method_class, role_of
from raybd.types.config import Config
from raybd.types.errors import UserError
from raybd.types.methods import EncoderAttack, TrainingAttack

DEFAULT_NETWORK = "resnet18"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class _File(Config):
    """An experiment file; each list entry is {kind: FILE, FIELD: VALUE, ...}."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    datasets: tuple[dict[str, Any], ...] = Field(min_length=1)
    attacks: tuple[dict[str, Any], ...] = Field(min_length=1)
    trainers: tuple[dict[str, Any], ...] = Field(min_length=1)
    detectors: tuple[dict[str, Any], ...] = ()
    scanners: tuple[dict[str, Any], ...] = ()
    repairs: tuple[dict[str, Any], ...] = ()
    removal: bool = False
    resources: AllResources = AllResources()
    canaries: Canaries | None = None


class _Source(Config):
    """Where transfer learning begins; the network is that of the entry around it."""

    dataset: dict[str, Any]
    attack: dict[str, Any] = Field(default_factory=lambda: {"kind": "none"})
    trainer: dict[str, Any]


class _Encoder(Config):
    """The encoder that the attack of the cell acts on; the network is that of the entry around it."""

    dataset: dict[str, Any] | None = None
    trainer: dict[str, Any]


class _Trusted(Config):
    """What a detector is told that it may trust."""

    dataset: dict[str, Any] | None = None
    poisoned: float = Field(0.0, ge=0, le=1)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file; an override is `attacks.0.rate=0.05`. Raises UserError that names the file and the field."""
    return parse(
        read(path, overrides, "an experiment file, like configs/quickstart.yaml"), str(path)
    )


def read(path: str | Path, overrides: Sequence[str], wanted: str) -> dict[str, Any]:
    """The mapping in a YAML file, with some values changed. Raises UserError that says what was wanted."""
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", f"Give the path of {wanted}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: not YAML: {' '.join(str(error).split())}",
            "Mend the file; configs/ has examples.",
        ) from error
    if not isinstance(raw, dict):
        raise UserError(
            f"{path}: holds no mapping at its top", "Begin with `name:`; configs/ has examples."
        )
    for override in overrides:
        _apply(raw, override)
    return raw


def parse(raw: Mapping[str, Any], where: str = "experiment") -> Experiment:
    """Validate an experiment given as a mapping."""
    try:
        file = _File.model_validate(raw)
    except ValidationError as error:
        raise user_error(error, where, _File) from error

    def methods(role: Role) -> tuple[Method, ...]:
        return tuple(
            _method(role, entry, f"{where}: {role}[{i}]")
            for i, entry in enumerate(getattr(file, role))
        )

    detectors = tuple(
        _detector(entry, f"{where}: detectors[{i}]") for i, entry in enumerate(file.detectors)
    )
    trainings, defending = [], []
    for i, entry in enumerate(file.trainers):
        at = f"{where}: trainers[{i}]"
        if _defends(entry):
            defending.append(_defending(entry, at))
        else:
            trainings.append(_training(entry, at))
    experiment = Experiment(
        name=file.name,
        seeds=file.seeds,
        datasets=methods("datasets"),
        attacks=methods("attacks"),
        trainings=tuple(trainings),
        defenses=detectors + methods("scanners") + methods("repairs") + tuple(defending),
        removal=file.removal,
        resources=file.resources,
        canaries=file.canaries,
    )
    if not trainings:
        raise UserError(
            f"{where}: trainers: {defending[0].kind} is a defense, and there is no victim for it to stand beside",
            "Add the training that it is compared with, like {kind: supervised, network: small_cnn}.",
        )
    _refuse_repeats(experiment, where)
    _refuse_canaries(experiment, where)
    return experiment


def _detector(entry: Mapping[str, Any], at: str) -> Method:
    """A detector's entry, which may say what its trusted images are."""
    fields = dict(entry)
    asked = fields.pop("trusted", None)
    method = _method("detectors", fields, at)
    if asked is None:
        return method
    try:
        found = _Trusted.model_validate(asked)
    except ValidationError as error:
        raise user_error(error, f"{at}.trusted", _Trusted) from error
    dataset = _method("datasets", found.dataset, f"{at}.trusted.dataset") if found.dataset else None
    return replace(method, trusted=Trusted(dataset, found.poisoned))


def _defends(entry: Any) -> bool:
    """Whether an entry of `trainers` is a training defense, which may stand there too."""
    kind = entry.get("kind") if isinstance(entry, Mapping) else None
    if not isinstance(kind, str):
        return False
    return role_of("trainers", kind) == "training_defenses"


def _defending(entry: Mapping[str, Any], at: str) -> Method:
    if "network" in entry:
        raise UserError(
            f"{at}.network: {entry['kind']} is a training defense and uses each victim's network",
            "Remove it here; the other trainers name the networks.",
        )
    return _method("training_defenses", entry, at)


def _training(entry: Mapping[str, Any], at: str, network: Method | None = None) -> Training:
    """A trainer's entry, which holds its network, and, for transfer learning, where that comes from."""
    fields = dict(entry)
    if network is None:
        asked = fields.pop("network", DEFAULT_NETWORK)
        network = _method(
            "networks", {"kind": asked} if isinstance(asked, str) else asked, f"{at}.network"
        )
    starts = [name for name in ("source", "encoder") if name in fields]
    start = fields.pop(starts[0]) if starts else None
    trainer = _method("trainers", fields, at)
    transfers = hasattr(trainer.config, "train_from")
    if starts and not transfers:
        raise UserError(
            f"{at}.{starts[0]}: {trainer.kind} does not start from another victim",
            "Remove it, or take `kind: transfer` or a probe.",
        )
    if transfers and not starts and not getattr(network.config, "pretrained", False):
        raise UserError(
            f"{at}: {trainer.kind} has nothing to start from",
            "Name a victim, source: {dataset: {kind: ...}, trainer: {kind: ...}}, or an encoder that the attack acts on, "
            "encoder: {trainer: {kind: simclr}}, or take a network with `pretrained: true`.",
        )
    return Training(
        trainer,
        network,
        _pretraining(start, f"{at}.{starts[0]}", network, starts[0]) if starts else None,
    )


def _pretraining(start: Any, at: str, network: Method, key: str) -> Pretraining:
    model = _Source if key == "source" else _Encoder
    try:
        asked = model.model_validate(start)
    except ValidationError as error:
        raise user_error(error, at, model) from error
    training = _training(asked.trainer, f"{at}.trainer", network)
    if isinstance(asked, _Source):
        attack = _method("attacks", asked.attack, f"{at}.attack")
        return Pretraining(_method("datasets", asked.dataset, f"{at}.dataset"), attack, training)
    if training.source is not None:
        raise UserError(
            f"{at}.trainer: an encoder can't start from another victim",
            "Take a trainer like simclr.",
        )
    return Pretraining(
        _method("datasets", asked.dataset, f"{at}.dataset") if asked.dataset else None,
        None,
        training,
    )


def _method(role: Role, entry: Any, where: str) -> Method:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("kind"), str):
        raise UserError(
            f"{where}: needs `kind: NAME`, got {entry!r}", f"`raybd list {role}` shows the names."
        )
    fields = {name: value for name, value in entry.items() if name not in ("kind", "name")}
    kind, name = entry["kind"], entry.get("name", entry["kind"])
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"{where}.name: {name!r} can't be a folder name",
            "Use letters, digits, dot, dash and underscore.",
        )
    try:
        found = method_class(role, kind)
    except UserError as error:
        raise UserError(f"{where}.kind: {error.what}", error.hint) from error
    try:
        return Method(role, kind, found.model_validate(fields), name)
    except ValidationError as error:
        raise user_error(error, where, found) from error


def _refuse_repeats(experiment: Experiment, where: str) -> None:
    """Rows are told apart by name; two that differ in fields only need names of their own."""
    columns = {
        "datasets": [method.name for method in experiment.datasets],
        "attacks": [method.name for method in experiment.attacks],
        "trainers": [
            f"{training.trainer.name} on {training.network.name}"
            for training in experiment.trainings
        ],
        "defenses": ["none", *(method.name for method in experiment.defenses)],
        "seeds": [str(seed) for seed in experiment.seeds],
    }
    for column, shown in columns.items():
        for name in shown:
            if shown.count(name) > 1:
                raise UserError(
                    f"{where}: {column}: {name!r} stands twice",
                    "Remove one, or give each a name of its own: {kind: ..., name: ...}.",
                )


def _refuse_canaries(experiment: Experiment, where: str) -> None:
    """Where canaries were planted, no victim may be trained on anything else."""
    if experiment.canaries is None:
        return
    for training in experiment.trainings:
        if training.source is not None and training.source.attack is None:
            raise UserError(
                f"{where}: canaries: {training.trainer.name} is a probe on an encoder, and no encoder is trained on canaries",
                "Remove canaries (or the objective that wants them), or take a trainer of classifiers.",
            )
    for attack in experiment.attacks:
        if isinstance(attack.config, TrainingAttack | EncoderAttack):
            raise UserError(
                f"{where}: canaries: {attack.name} hands out a victim of its own, which is trained without them",
                "Remove canaries (or the objective that wants them), or take an attack that changes data only.",
            )


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set one value in a parsed file: `attacks.0.rate=0.05`; the value is YAML."""
    target, separator, text = override.partition("=")
    if not separator:
        raise UserError(f"--set {override}: no '='", "Write --set attacks.0.rate=0.05.")
    *parents, leaf = target.split(".")
    here: Any = raw
    try:
        for parent in parents:
            here = here[int(parent)] if isinstance(here, list) else here.setdefault(parent, {})
        if isinstance(here, list):
            here[int(leaf)] = yaml.safe_load(text)
        else:
            here[leaf] = yaml.safe_load(text)
    except (IndexError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UserError(
            f"--set {override}: {type(error).__name__}: {error}",
            "Name a place of the file, like attacks.0.rate.",
        ) from error


def user_error(error: ValidationError, where: str, model: type[Config]) -> UserError:
    """What is wrong with the first field that was refused, and what to do."""
    first = error.errors()[0]
    place = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
    ).lstrip(".")
    field = str(first["loc"][0]) if first["loc"] else ""
    at = f"{where}.{place}" if "[" in where else f"{where}: {place}"
    if first["type"] == "extra_forbidden":
        known = (
            *model.model_fields,
            "kind",
            "name",
            *(("network",) if "epochs" in model.model_fields else ()),
        )
        is_method = model not in (_File, _Source, _Encoder, _Trusted)
        return UserError(
            f"{at}: unknown field", did_you_mean(field, known if is_method else model.model_fields)
        )
    if first["type"] == "missing":
        return UserError(f"{at}: missing", "Add it; configs/ has examples.")
    message = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    info = model.model_fields.get(field)
    doc = f" {field}: {info.description}" if info is not None and info.description else ""
    return UserError(f"{at}: {message} (got {first['input']!r})", f"Change the value.{doc}")
