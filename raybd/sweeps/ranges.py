"""The search space of a sweep: places of the experiment, and the values that fields may take."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic.fields import FieldInfo

from raybd.registry import Role, method_class, role_of

Params = dict[str, Any]
"""Values by place and field: {"detectors.0.lr": 0.001}."""

_NESTED: Mapping[str, Role] = {
    "trainer": "trainers",
    "network": "networks",
    "dataset": "datasets",
    "attack": "attacks",
}
"""The role of a method that is a field of another entry, by the name of the field."""


@dataclass(frozen=True)
class Range:
    """The values that a field of one method may take in a sweep."""

    place: str
    """Where the method is in the experiment, like `detectors.0` or `trainers.1.network`."""
    field: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    integer: bool = False
    choices: tuple[Any, ...] = ()
    when: Mapping[str, tuple[Any, ...]] | None = None
    """The field is searched only if these other fields of the method have one of these values."""

    @property
    def name(self) -> str:
        """Its name in the parameters of a trial."""
        return f"{self.place}.{self.field}"

    def suggest(self, trial: Any) -> Any:
        """Return a value that an Optuna trial suggests."""
        if self.choices:
            return trial.suggest_categorical(self.name, list(self.choices))
        if self.integer:
            low = int(cast(float, self.low))
            high = int(cast(float, self.high))
            return trial.suggest_int(self.name, low, high, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def __str__(self) -> str:
        # The study of a sweep keeps a hash of this text: a change of it makes old studies useless.
        values = ", ".join(map(str, self.choices))
        if not values:
            values = f"{self.low:g} to {self.high:g}{' (log)' if self.log else ''}"
        conditions = (
            f", where {name} is {' or '.join(map(str, wanted))}"
            for name, wanted in (self.when or {}).items()
        )
        return values + "".join(conditions)


def fields_of(place: str, entry: Mapping[str, Any]) -> Mapping[str, FieldInfo]:
    """Return the fields of the method at a place, whose entry is given."""
    last = place.rsplit(".", 1)[-1]
    # A nested method has no list that names its role: the field that holds it does.
    role = cast(Role, place.split(".", maxsplit=1)[0]) if last.isdigit() else _NESTED[last]
    kind = entry["kind"]
    return method_class(role_of(role, kind), kind).model_fields


def entry_at(raw: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return the entry of a method in a raw experiment.

    A network that is written as its kind alone is changed, in place, to an entry.
    Raises KeyError, IndexError, ValueError or TypeError if there is no such place.
    """
    here: Any = raw
    for part in place.split("."):
        inner = here[int(part)] if isinstance(here, list) else here[part]
        # A kind alone has no fields that a value could be written to.
        if part == "network" and isinstance(inner, str):
            inner = {"kind": inner}
            here[part] = inner
        here = inner
    if not isinstance(here, dict):
        raise TypeError(place)
    return here


def entry_around(raw: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return the entry of the list that a place is in: of a nested method, the one around it."""
    role, index = place.split(".")[:2]
    return entry_at(raw, f"{role}.{index}")


def set_values(raw: Mapping[str, Any], params: Params) -> None:
    """Write the values of a trial into a raw experiment, in place."""
    for name, value in params.items():
        place, _, field = name.rpartition(".")
        entry_at(raw, place)[field] = value
