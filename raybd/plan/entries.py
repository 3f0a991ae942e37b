"""The entries of an experiment file: {kind: FILE, FIELD: VALUE, ...} -> methods and trainings."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from pydantic import Field, ValidationError

from raybd.plan.architecture import network_of
from raybd.plan.graph import Pretraining, Training
from raybd.plan.validation import user_error
from raybd.registry import Method, Role, Trusted, method_class, names, role_of, singular
from raybd.types.config import Config
from raybd.types.errors import UserError
from raybd.types.methods import (
    Analysis,
    Attack,
    DatasetMethod,
    Detector,
    Repair,
    Scanner,
    Trainer,
    TrainingDefense,
    TransferTrainer,
)
from raybd.types.models import Network

# Names become folders of the store: no slash, and no dot at the beginning, which would hide them.
NAME = re.compile(r"(?!(0[xX][0-9A-Fa-f]+|[0-9]+)$)[A-Za-z0-9][A-Za-z0-9_.-]*")
"""What can be the name of a folder. Digits alone, or 0x10, would be read as a number: pandas and
Arrow guess the types of folders like attack=05, and 5 joins no row of the cells table."""
NAME_HINT = "Use letters, digits, dot, dash and underscore, and no number like 05 or 0x10."
ENTRY_KEYS = ("kind", "name")
ROLE_CLASSES: Mapping[Role, type[Config]] = {
    "datasets": DatasetMethod,
    "networks": Network,
    "attacks": Attack,
    "trainers": Trainer,
    "training_defenses": TrainingDefense,
    "detectors": Detector,
    "scanners": Scanner,
    "repairs": Repair,
    "analyses": Analysis,
}


class Source(Config):
    """Where transfer learning begins; the network is that of the entry around it."""

    dataset: dict[str, Any]
    attack: dict[str, Any] = Field(default_factory=lambda: {"kind": "none"})
    trainer: dict[str, Any]


class EncoderEntry(Config):
    """The encoder that the cell's attack acts on; the network is that of the entry around it."""

    dataset: dict[str, Any] | None = None
    trainer: dict[str, Any]


class TrustedEntry(Config):
    """What a detector is told that it may trust."""

    dataset: dict[str, Any] | None = None
    poisoned: float = Field(0.0, ge=0, le=1)


def method(role: Role, entry: Any, where: str) -> Method:
    """Return the method that an entry names. Raises UserError that names the place in the file."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("kind"), str):
        raise UserError(
            f"{where}: needs `kind: NAME`, got {entry!r}",
            f"`raybd list {role}` shows the names.",
        )
    kind, member = _kind_and_member(role, entry, where)
    name = entry.get("name", entry["kind"].replace(":", "-"))
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(
            f"{where}.name: {name!r} cannot be the name of a folder",
            NAME_HINT,
        )

    try:
        found = method_class(role, kind)
    # The registry knows the kind, not the place in the file.
    except UserError as error:
        raise UserError(f"{where}.kind: {error.what}", _hint(role, kind, error.hint)) from error
    # A module of the user's own may define a method of another role.
    if not issubclass(found, ROLE_CLASSES[role]):
        base = ROLE_CLASSES[role]
        raise UserError(
            f"{where}.kind: {kind}: {found.__name__} is no {singular(role)}",
            f"Let it derive from {base.__module__}.{base.__name__}.",
        )

    fields = {key: value for key, value in entry.items() if key not in ENTRY_KEYS}
    if member is not None:
        fields |= _member_field(found, member, fields, where)
    try:
        return Method(role, kind, found.model_validate(fields), name)
    except ValidationError as error:
        # `network` is no field of the trainer, but stands in its entry: a typing error may mean it.
        trains = ("network",) if "epochs" in found.model_fields else ()
        raise user_error(error, where, found, (*ENTRY_KEYS, *trains)) from error


def _kind_and_member(role: Role, entry: Mapping[str, Any], where: str) -> tuple[str, str | None]:
    """Return the kind of an entry, and what follows its colon: torchvision:resnet50."""
    kind, colon, member = str(entry["kind"]).partition(":")
    if colon and not member:
        raise UserError(
            f"{where}.kind: nothing follows the colon of {entry['kind']!r}",
            f"`raybd show {role}/{kind}` says what can.",
        )
    return kind, member if colon else None


def _member_field(
    found: type[Config], member: str, fields: Mapping[str, Any], where: str
) -> dict[str, str]:
    """Return the field that the part of a kind after its colon sets."""
    name = found.family_field if issubclass(found, Network) else None
    if name is None:
        raise UserError(
            f"{where}.kind: nothing can follow a colon here, and {member!r} does",
            "Write the kind alone; networks of the kinds torchvision and timm have a colon.",
        )
    if name in fields:
        raise UserError(f"{where}: {name} stands in the kind, and as a field", "Remove one.")
    return {name: member}


def _hint(role: Role, kind: str, hint: str) -> str:
    """Return what to do about an unknown kind: it may be one of the models of a library."""
    if role != "networks" or "." in kind:
        return hint
    for family in names(role):
        found = cast(type[Network], method_class(role, family))
        if found.family_field is not None and kind in found.family():
            return f"Write {family}:{kind}."
    return hint


def attack(entry: Mapping[str, Any], where: str) -> Method:
    """Return an attack, which may name another data set that it reads: side_data: {kind: ...}."""
    fields = dict(entry)
    side_data = fields.pop("side_data", None)
    found = method("attacks", fields, where)
    if side_data is None:
        return found
    if not cast(Attack, found.config).reads_side_data:
        raise UserError(f"{where}.side_data: {found.kind} reads no other data set", "Remove it.")
    return replace(found, side_data=method("datasets", side_data, f"{where}.side_data"))


def defense(role: Role, entry: Mapping[str, Any], where: str) -> Method:
    """Return a defense. `oracle: true` says that its fields hold what a defender lacks.

    A detector's entry may say what its trusted images are: trusted: {dataset: ..., poisoned: ...}.
    """
    fields = dict(entry) if isinstance(entry, Mapping) else entry
    oracle = fields.pop("oracle", False)
    if not isinstance(oracle, bool):
        raise UserError(f"{where}.oracle: {oracle!r} is neither true nor false", "Write true.")
    # For other roles it stays in the fields, where it is refused as unknown.
    trusted = fields.pop("trusted", None) if role == "detectors" else None
    found = replace(method(role, fields, where), oracle=oracle)
    if trusted is None:
        return found

    try:
        asked = TrustedEntry.model_validate(trusted)
    except ValidationError as error:
        raise user_error(error, f"{where}.trusted", TrustedEntry) from error
    dataset = None
    if asked.dataset:
        dataset = method("datasets", asked.dataset, f"{where}.trusted.dataset")
    return replace(found, trusted=Trusted(dataset, asked.poisoned))


def is_training_defense(entry: Any) -> bool:
    """Whether an entry of the list `trainers` is a training defense, which may stand there, too."""
    kind = entry.get("kind") if isinstance(entry, Mapping) else None
    return isinstance(kind, str) and role_of("trainers", kind) == "training_defenses"


def training_defense(entry: Mapping[str, Any], where: str) -> Method:
    """Return a training defense; it trains on the network of each victim that it stands beside."""
    if "network" in entry:
        raise UserError(
            f"{where}.network: {entry['kind']} is a training defense and trains on the network of "
            "each victim that it stands beside",
            "Remove it here; the other trainers name the networks.",
        )
    return defense("training_defenses", entry, where)


def training(entry: Mapping[str, Any], where: str, network: Method | None = None) -> Training:
    """Return a trainer with its network and, for transfer learning, with what it starts from."""
    fields = dict(entry)
    # Inside of a source or an encoder the network is that of the entry around it.
    asked = fields.pop("network", None) if network is None else None
    key = next((name for name in ("source", "encoder") if name in fields), None)
    start = fields.pop(key) if key else None
    if asked is not None:
        # Before the trainer: weights of its own may take long to read.
        network = _network(asked, where)
    trainer = method("trainers", fields, where)
    network = network or _network(network_of(cast(Trainer, trainer.config)), where)
    if not isinstance(trainer.config, TransferTrainer):
        if key:
            raise UserError(
                f"{where}.{key}: {trainer.kind} does not start from another victim",
                "Remove it, or take `kind: transfer` or a probe.",
            )
        return Training(trainer, network)

    if not key:
        # Published weights are a start, too.
        if not cast(Network, network.config).starts_pretrained:
            raise UserError(
                f"{where}: {trainer.kind} has nothing to start from",
                "Name a victim, source: {dataset: {kind: ...}, trainer: {kind: ...}}, or an "
                "encoder that the attack acts on, encoder: {trainer: {kind: simclr}}, or take a "
                "network with `pretrained: true`.",
            )
        return Training(trainer, network)
    at = f"{where}.{key}"
    source = _source(start, at, network) if key == "source" else _encoder(start, at, network)
    return Training(trainer, network, source)


def _network(asked: Any, where: str) -> Method:
    asked = {"kind": asked} if isinstance(asked, str) else asked
    return method("networks", asked, f"{where}.network")


def _source(start: Any, at: str, network: Method) -> Pretraining:
    try:
        asked = Source.model_validate(start)
    except ValidationError as error:
        raise user_error(error, at, Source) from error
    return Pretraining(
        method("datasets", asked.dataset, f"{at}.dataset"),
        attack(asked.attack, f"{at}.attack"),
        training(asked.trainer, f"{at}.trainer", network),
    )


def _encoder(start: Any, at: str, network: Method) -> Pretraining:
    try:
        asked = EncoderEntry.model_validate(start)
    except ValidationError as error:
        raise user_error(error, at, EncoderEntry) from error
    inner = training(asked.trainer, f"{at}.trainer", network)
    # The attack acts on one encoder; a chain of them would not say on which.
    if inner.source is not None:
        raise UserError(
            f"{at}.trainer: an encoder cannot start from another victim",
            "Take a trainer like simclr.",
        )
    dataset = method("datasets", asked.dataset, f"{at}.dataset") if asked.dataset else None
    # No attack of its own: that of the cell acts here.
    return Pretraining(dataset, None, inner)
