"""What a sweep searches and what it wants: the search space and the objectives. No Ray."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from pydantic.fields import FieldInfo

from raybd.cells.cell import Cell
from raybd.cells.stage import content_hash
from raybd.plan import file as experiment_file
from raybd.plan.experiment import Experiment
from raybd.registry import Role, method_class, role_of
from raybd.types.errors import UserError

if TYPE_CHECKING:
    import optuna

Direction = Literal["maximize", "minimize"]
Pruning = Literal["none", "asha", "median"]
Row = dict[str, Any]
Params = dict[str, Any]
"""Values by place and field: {"detectors.0.lr": 0.001}."""

DEFAULT = "default"
"""The trial with the values of the file itself."""
DIRECTIONS: Mapping[str, Direction] = {
    "seconds": "minimize",
    "gpu_seconds": "minimize",
    "peak_memory_bytes": "minimize",
    "clean_accuracy": "maximize",
    "attack_success": "minimize",
    "robust_accuracy": "maximize",
    "defended_clean_accuracy": "maximize",
    "defended_attack_success": "minimize",
    "defended_robust_accuracy": "maximize",
    "auroc": "maximize",
    "average_precision": "maximize",
    "tpr": "maximize",
    "fpr": "minimize",
    "f1": "maximize",
    "tpr_at_fpr_1": "maximize",
    "tpr_at_fpr_5": "maximize",
    "mismatch_auroc": "maximize",
    "shuffled_over_true_error": "maximize",
    "held_out_error": "minimize",
    "separation": "maximize",
    "share_of_steps_raised": "maximize",
    "canary": "maximize",
    "canary_auroc": "maximize",
    "stability": "maximize",
    "trusted_fpr": "minimize",
    "excess_mass": "maximize",
}
"""Which way is better. Columns of the cells table, then facts that detectors declare, then what canaries say of them."""
FREE_COLUMNS = ("seconds", "gpu_seconds", "peak_memory_bytes")
"""Columns of the cells table that no ground truth plays a part in; facts of a detector never see any."""
ORACLE_COLUMNS = tuple(name for name in list(DIRECTIONS)[:16] if name not in FREE_COLUMNS)
_NESTED: Mapping[str, Role] = {
    "trainer": "trainers",
    "network": "networks",
    "dataset": "datasets",
    "attack": "attacks",
}


@dataclass(frozen=True)
class Range:
    """The values that a field of one method may take in a sweep."""

    place: str
    field: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    integer: bool = False
    choices: tuple[Any, ...] = ()
    when: Mapping[str, tuple[Any, ...]] | None = None
    """Searched only where these other fields of the method have one of these values."""

    @property
    def name(self) -> str:
        """As in a trial's parameters."""
        return f"{self.place}.{self.field}"

    def suggest(self, trial: Any) -> Any:
        """A value, by an Optuna trial."""
        if self.choices:
            return trial.suggest_categorical(self.name, list(self.choices))
        if self.integer:
            return trial.suggest_int(
                self.name, int(cast(float, self.low)), int(cast(float, self.high)), log=self.log
            )
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def __str__(self) -> str:
        values = (
            ", ".join(map(str, self.choices))
            or f"{self.low:g} to {self.high:g}{' (log)' if self.log else ''}"
        )
        only = "".join(
            f", where {name} is {' or '.join(map(str, wanted))}"
            for name, wanted in (self.when or {}).items()
        )
        return values + only


@dataclass(frozen=True)
class Objective:
    """A number that a sweep wants high or low: a column of the cells table, or a fact that a detector declares."""

    name: str
    direction: Direction

    @property
    def oracle(self) -> bool:
        """Whether ground truth that no defender has plays a part in it."""
        return self.name in ORACLE_COLUMNS


class Searched(Protocol):
    """What trials can be ranked for: a sweep, or what its study says of it."""

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What was wanted, the first first."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep file asks for."""

    name: str
    raw: Mapping[str, Any]
    """The experiment, as in its file, under the name of the sweep."""
    where: str
    """What stands before its errors."""
    ranges: tuple[Range, ...]
    objectives: tuple[Objective, ...]
    trials: int
    seed: int
    sampler: str
    concurrency: int
    pruning: Pruning
    """What stops trials that look bad halfway, judged by the first objective."""
    held_out: tuple[Mapping[str, Any], ...]
    """Attacks that the trials never see."""

    @property
    def oracle(self) -> bool:
        """Whether any objective is an oracle's."""
        return any(objective.oracle for objective in self.objectives)

    @property
    def places(self) -> tuple[str, ...]:
        """The methods that are searched."""
        return tuple(dict.fromkeys(found.place for found in self.ranges))

    @property
    def searched(self) -> frozenset[str]:
        """Their names in the tables; of a nested one that of the method around it."""
        entries = [entry_at(self.raw, ".".join(place.split(".")[:2])) for place in self.places]
        return frozenset(entry.get("name", entry["kind"]) for entry in entries)

    @property
    def definition(self) -> str:
        """A hash of what makes its trials comparable; the number of trials may grow."""
        ranges = [(found.name, str(found)) for found in self.ranges]
        return content_hash(self.raw, ranges, [(o.name, o.direction) for o in self.objectives])

    @property
    def about(self) -> dict[str, Any]:
        """What readers of the results want to know besides the trials, for JSON; a default where a trial would have the field."""
        seen = {attack.name for attack in self.base().attacks}
        return {
            "objectives": [
                {"name": objective.name, "direction": objective.direction}
                for objective in self.objectives
            ],
            "space": {found.name: str(found) for found in self.ranges},
            "defaults": {
                found.name: self._value(found.place, found.field, {})
                for found in self.ranges
                if self._holds(found, {})
            },
            "held_out": [
                attack.name for attack in self.comparison({}).attacks if attack.name not in seen
            ],
        }

    def base(self) -> Experiment:
        """The experiment as its file has it: what all trials share, and the defaults."""
        return self.experiment({})

    def experiment(self, params: Params, name: str | None = None) -> Experiment:
        """The experiment with these values. Raises UserError where the methods refuse them."""
        raw = copy.deepcopy(dict(self.raw))
        for param, value in params.items():
            place, _, field = param.rpartition(".")
            entry_at(raw, place)[field] = value
        return experiment_file.parse({**raw, "name": name or self.name}, self.where)

    def comparison(self, params: Params) -> Experiment:
        """The methods as they stand in the file beside those with these values, on all attacks, the held-out ones too.

        No canaries are planted here.
        """
        raw = copy.deepcopy(dict(self.raw))
        raw.pop("canaries", None)
        best = copy.deepcopy(raw)
        for param, value in params.items():
            place, _, field = param.rpartition(".")
            entry_at(best, place)[field] = value
        for role, index in dict.fromkeys(
            (place.split(".")[0], int(place.split(".")[1])) for place in self.places
        ):
            entry = best[role][index]
            raw[role].append({**entry, "name": f"{entry.get('name', entry['kind'])}_best"})
        raw["attacks"] += [dict(attack) for attack in self.held_out]
        return experiment_file.parse({**raw, "name": f"{self.name}_best"}, self.where)

    def suggest(self, trial: Any) -> Params:
        """Values for one trial, by define-by-run: a field whose condition does not hold keeps what the file says."""
        params: Params = {}
        for found in self.ranges:
            if self._holds(found, params):
                params[found.name] = found.suggest(trial)
        return params

    def refused(self, params: Params, side: int) -> str | None:
        """Why these values can't be, if so; `side` is that of the images, in pixels."""
        try:
            asked = self.experiment(params)
        except UserError as error:
            return error.what
        methods = [
            method.config
            for method in (*asked.defenses, *(training.trainer for training in asked.trainings))
        ]
        reasons = (method.refused(side) for method in methods if hasattr(method, "refused"))
        return next((str(reason) for reason in reasons if reason), None)

    def cells_of(self, experiment: Experiment) -> tuple[Cell, ...]:
        """The cells that the searched fields play a part in, without what can't be built."""
        roles = {place.split(".")[0] for place in self.places}
        cells = [cell for cell in experiment.cells() if not cell.infeasible]
        if not roles <= {"detectors", "scanners", "repairs", "trainers"}:
            return tuple(cells)
        return tuple(
            cell
            for cell in cells
            if cell.defense_name in self.searched or cell.trainer.name in self.searched
        )

    def _holds(self, found: Range, params: Params) -> bool:
        """Whether the condition of a range holds, where it has one."""
        return all(
            self._value(found.place, other, params) in wanted
            for other, wanted in (found.when or {}).items()
        )

    def _value(self, place: str, field: str, params: Params) -> Any:
        name = f"{place}.{field}"
        if name in params:
            return params[name]
        entry = entry_at(self.raw, place)
        return entry[field] if field in entry else fields_of(place, entry)[field].default


def make_sampler(sweep: Sweep, trials_before: int) -> "optuna.samplers.BaseSampler":
    """Optuna's sampler. A resumed sweep gets another stream of random numbers: the old one would draw the first trials again."""
    import optuna

    seed = sweep.seed + trials_before
    if sweep.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if sweep.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(
            seed=seed, population_size=max(4, min(50, sweep.trials // 4))
        )
    return optuna.samplers.TPESampler(seed=seed)


def fields_of(place: str, entry: Mapping[str, Any]) -> Mapping[str, FieldInfo]:
    last = place.rsplit(".", 1)[-1]
    role = cast(Role, place.split(".", maxsplit=1)[0]) if last.isdigit() else _NESTED[last]
    kind = entry["kind"]
    return method_class(role_of(role, kind), kind).model_fields


def entry_at(raw: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The entry of a method in a raw experiment; a network that is named by its kind alone becomes an entry."""
    here: Any = raw
    for part in place.split("."):
        inner = here[int(part)] if isinstance(here, list) else here[part]
        if part == "network" and isinstance(inner, str):
            inner = here[part] = {"kind": inner}
        here = inner
    if not isinstance(here, dict):
        raise TypeError(place)
    return here


def as_json(value: Mapping[str, Any]) -> str:
    """Parameters and objectives, for a row."""
    return json.dumps(value, sort_keys=True)
