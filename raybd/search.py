"""What a sweep searches and what it wants: reading a sweep file, the search space, the objectives. Plain Optuna words; no Ray.

    name: asset_small
    experiment: {datasets: [...], attacks: [...], trainers: [...], detectors: [{kind: asset}]}      as in an experiment file
    search: {detectors.0: {top: null, lr_max: {low: 1.0e-4, high: 1.0e-3, log: true}, select: {choices: [top, outlying]}}}
    objectives: [auroc, seconds]        several: a Pareto front
    pruning: asha                       stop trials that look bad halfway: asha, median, or none

Under `search` stand places of the experiment; `all` takes every range that the method declares on its fields, `null` the one of a
field. A field with `when={other: [values]}` in its declaration is searched only where the other field has one of these values. That
a combination can't be is said by the method: by its validation, or by `refused(side)`, which is told the side of the images.
"""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import yaml
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from raybd import canaries, experiment_file
from raybd.experiment import Cell, Experiment
from raybd.graph import content_hash
from raybd.registry import ROLES, Role, did_you_mean, method_class
from raybd.store import MOST_OBJECTIVES, Store
from raybd.types import Config, UserError

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
_NESTED: Mapping[str, Role] = {"trainer": "trainers", "network": "networks", "dataset": "datasets", "attack": "attacks"}
_RANGE_KEYS = ({"low", "high"}, {"low", "high", "log"}, {"choices"})


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
            return trial.suggest_int(self.name, int(cast(float, self.low)), int(cast(float, self.high)), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def __str__(self) -> str:
        values = ", ".join(map(str, self.choices)) or f"{self.low:g} to {self.high:g}{' (log)' if self.log else ''}"
        only = "".join(f", where {name} is {' or '.join(map(str, wanted))}" for name, wanted in (self.when or {}).items())
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
        entries = [_at(self.raw, ".".join(place.split(".")[:2])) for place in self.places]
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
            "objectives": [{"name": objective.name, "direction": objective.direction} for objective in self.objectives],
            "space": {found.name: str(found) for found in self.ranges},
            "defaults": {found.name: self._value(found.place, found.field, {}) for found in self.ranges if self._holds(found, {})},
            "held_out": [attack.name for attack in self.comparison({}).attacks if attack.name not in seen],
        }

    def base(self) -> Experiment:
        """The experiment as its file has it: what all trials share, and the defaults."""
        return self.experiment({})

    def experiment(self, params: Params, name: str | None = None) -> Experiment:
        """The experiment with these values. Raises UserError where the methods refuse them."""
        raw = copy.deepcopy(dict(self.raw))
        for param, value in params.items():
            place, _, field = param.rpartition(".")
            _at(raw, place)[field] = value
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
            _at(best, place)[field] = value
        for role, index in dict.fromkeys((place.split(".")[0], int(place.split(".")[1])) for place in self.places):
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
        methods = [method.config for method in (*asked.defenses, *(training.trainer for training in asked.trainings))]
        reasons = (method.refused(side) for method in methods if hasattr(method, "refused"))
        return next((str(reason) for reason in reasons if reason), None)

    def cells_of(self, experiment: Experiment) -> tuple[Cell, ...]:
        """The cells that the searched fields play a part in, without what can't be built."""
        roles = {place.split(".")[0] for place in self.places}
        cells = [cell for cell in experiment.cells() if not cell.infeasible]
        if not roles <= {"detectors", "scanners", "repairs", "trainers"}:
            return tuple(cells)
        return tuple(cell for cell in cells if cell.defense_name in self.searched or cell.trainer.name in self.searched)

    def _holds(self, found: Range, params: Params) -> bool:
        """Whether the condition of a range holds, where it has one."""
        return all(self._value(found.place, other, params) in wanted for other, wanted in (found.when or {}).items())

    def _value(self, place: str, field: str, params: Params) -> Any:
        name = f"{place}.{field}"
        if name in params:
            return params[name]
        entry = _at(self.raw, place)
        return entry[field] if field in entry else _fields(place, entry)[field].default


class _HeldOut(Config):
    """What the trials never see."""

    attacks: tuple[dict[str, Any], ...] = Field(min_length=1)


class _SweepFile(Config):
    """A sweep file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    experiment: dict[str, Any]
    search: dict[str, Any] = Field(min_length=1)
    objectives: tuple[str | dict[str, Direction], ...] = Field(min_length=1, max_length=MOST_OBJECTIVES)
    trials: int = Field(20, ge=1)
    seed: int = 0
    sampler: Literal["tpe", "random", "nsga2"] = "tpe"
    concurrency: int = Field(1, ge=1)
    pruning: Pruning = "none"
    held_out: _HeldOut | None = None


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file; an override is `trials=8`. Raises UserError that names the file and the field."""
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}", "Give the path of a sweep file, like configs/sweeps/dede_small.yaml."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mend = "Mend the file; configs/sweeps/ has examples."
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}", mend) from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: holds no mapping at its top", "Begin with `name:`; configs/sweeps/ has examples.")
    for override in overrides:
        experiment_file._apply(raw, override)
    return parse_sweep(raw, str(path))


def is_sweep(path: Path) -> bool:
    """Whether a file holds a sweep, not an experiment; what can't be read is no sweep."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return False
    return isinstance(raw, dict) and "search" in raw


def parse_sweep(raw: Mapping[str, Any], where: str = "sweep") -> Sweep:
    """Validate a sweep given as a mapping."""
    try:
        file = _SweepFile.model_validate(raw)
    except ValidationError as error:
        raise experiment_file._user_error(error, where, _SweepFile) from error
    objectives = tuple(_objective(asked, f"{where}: objectives[{i}]") for i, asked in enumerate(file.objectives))
    experiment = {**copy.deepcopy(file.experiment), "name": file.name, **_planted(file.experiment, objectives)}
    experiment_file.parse(experiment, f"{where}: experiment")  # before anything is looked up in it
    ranges = [found for place, asked in file.search.items() for found in _ranges(experiment, place, asked, f"{where}: search")]
    sweep = Sweep(
        name=file.name,
        raw=experiment,
        where=f"{where}: experiment",
        ranges=tuple(ranges),
        objectives=objectives,
        trials=file.trials,
        seed=file.seed,
        sampler=file.sampler,
        concurrency=file.concurrency,
        pruning=file.pruning,
        held_out=file.held_out.attacks if file.held_out else (),
    )
    if file.sampler == "nsga2" and len(sweep.objectives) == 1:
        raise UserError(f"{where}: sampler: nsga2 is for several objectives", "Take tpe, or add an objective like seconds.")
    if sweep.held_out and any(place.startswith("attacks.") for place in sweep.places):
        raise UserError(f"{where}: held_out: the sweep searches an attack itself", "Remove held_out, or search a defense.")
    _check_pruning(sweep, where)
    _refuse_unseen_canaries(sweep, where)
    sweep.comparison({})
    return sweep


def _check_pruning(sweep: Sweep, where: str) -> None:
    first = sweep.objectives[0].name
    for place in sweep.places if sweep.pruning != "none" else ():
        role, index = place.split(".")[:2]
        kind = _at(sweep.raw, f"{role}.{index}")["kind"]
        told = method_class(cast(Role, role), kind).halfway
        if first not in told:
            says = f"it tells {', '.join(told)}" if told else "it tells nothing"
            raise UserError(
                f"{where}: pruning: {kind} does not tell {first} after its epochs; {says}",
                "Put such an objective first, or set pruning: none.",
            )


def make_sampler(sweep: Sweep, trials_before: int) -> "optuna.samplers.BaseSampler":
    """Optuna's sampler. A resumed sweep gets another stream of random numbers: the old one would draw the first trials again."""
    import optuna

    seed = sweep.seed + trials_before
    if sweep.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if sweep.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, min(50, sweep.trials // 4)))
    return optuna.samplers.TPESampler(seed=seed)


def measured(sweep: Sweep, rows: Sequence[Mapping[str, Any]], facts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The objectives and the oracle AUROC of a trial: means over its cells of what the rows, and the facts beside them, say.

    Raises ValueError where no cell has a number of that name.
    """
    found: dict[str, float] = {}
    for name in dict.fromkeys([*(objective.name for objective in sweep.objectives), "auroc"]):
        values = [row.get(name, said.get(name)) for row, said in zip(rows, facts, strict=True)]
        numbers = [float(value) for value in values if value is not None and math.isfinite(value)]
        if numbers:
            found[name] = sum(numbers) / len(numbers)
        elif name != "auroc" or any(objective.name == name for objective in sweep.objectives):
            declared = sorted({fact for said in facts for fact in said})
            hint = did_you_mean(name, [*DIRECTIONS, *declared])
            raise ValueError(f"objective {name}: no cell of the sweep has that number. {hint}")
    return found


def trial_rows(sweep: Sweep, store: Store) -> dict[str, Row]:
    """The rows of a sweep that are in the store, by trial."""
    frame = store.trials(sweep.name)
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return {str(row["trial"]): {str(name): value for name, value in row.items()} for row in rows}


def searched_rows(rows: Mapping[str, Row]) -> list[Row]:
    """Those of the trials that were searched, without the defaults."""
    return [row for trial, row in rows.items() if trial != DEFAULT]


def trials_left(sweep: Sweep, rows: Mapping[str, Row]) -> int:
    """How many trials are still to be run; an infeasible one costs nothing and is replaced."""
    return max(0, sweep.trials - sum(row["state"] in ("complete", "failed", "pruned") for row in searched_rows(rows)))


def sweep_facts(sweep: Sweep, rows: Mapping[str, Row]) -> dict[str, Any]:
    """A sweep and what was found so far, for JSON."""
    return {
        "sweep": sweep.name,
        "objectives": [{"name": o.name, "direction": o.direction, "oracle": o.oracle} for o in sweep.objectives],
        "space": {found.name: str(found) for found in sweep.ranges},
        "trials_left": trials_left(sweep, rows),
        "default": rows.get(DEFAULT),
        "best": best_of(sweep, searched_rows(rows)),
        "rank_correlation_with_auroc": {
            objective.name: rank_correlation(searched_rows(rows), f"objective_{i}") for i, objective in enumerate(sweep.objectives)
        },
        "trials": searched_rows(rows),
    }


def ranked(sweep: Searched, rows: Sequence[Row]) -> list[Row]:
    """The finished trials, best in the first objective first."""
    return sorted((row for row in rows if row["state"] == "complete"), key=lambda row: _losses(sweep, row))


def best_of(sweep: Searched, rows: Sequence[Row]) -> list[Row]:
    """The best trial; of several objectives the Pareto front: the trials that no other one beats in all, in that order."""
    done = ranked(sweep, rows)
    if len(sweep.objectives) == 1:
        return done[:1]
    return [row for row in done if not any(_beats(_losses(sweep, other), _losses(sweep, row)) for other in done)]


def best_params(sweep: Sweep, rows: Mapping[str, Row]) -> Params | None:
    """The values of the best trial (in the first objective), if any was finished."""
    best = best_of(sweep, searched_rows(rows))
    return cast(Params, json.loads(best[0]["params"])) if best else None


def rank_correlation(rows: Sequence[Row], column: str) -> float | None:
    """Spearman's, between a column and the oracle AUROC, over the finished trials; none where either does not vary."""
    from scipy.stats import spearmanr

    pairs = [(row[column], row["auroc"]) for row in rows if row["state"] == "complete" and row["auroc"] is not None]
    if len(pairs) < 3 or any(len({pair[i] for pair in pairs}) < 2 for i in (0, 1)):
        return None
    return float(spearmanr([a for a, _ in pairs], [b for _, b in pairs]).statistic)


def _losses(sweep: Searched, row: Row) -> tuple[float, ...]:
    signs = [1.0 if objective.direction == "minimize" else -1.0 for objective in sweep.objectives]
    return tuple(sign * row[f"objective_{i}"] for i, sign in enumerate(signs))


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _objective(asked: str | Mapping[str, Direction], at: str) -> Objective:
    if isinstance(asked, str):
        if asked not in DIRECTIONS:
            hint = did_you_mean(asked, DIRECTIONS)
            mend = f"{hint} For a fact that your own detector declares, say which way is better: {{{asked}: maximize}}."
            raise UserError(f"{at}: {asked!r} is not known", mend)
        return Objective(asked, DIRECTIONS[asked])
    if len(asked) != 1:
        raise UserError(f"{at}: {dict(asked)} names {len(asked)} objectives", "Write one for each entry: {NAME: maximize}.")
    ((name, direction),) = asked.items()
    if DIRECTIONS.get(name, direction) != direction:
        raise UserError(f"{at}: {name} is better the other way", f"Write {name} alone.")
    return Objective(name, direction)


def _planted(experiment: Mapping[str, Any], objectives: Sequence[Objective]) -> dict[str, Any]:
    """The canaries of the trials, where an objective wants them."""
    wanted, given = {objective.name for objective in objectives}, experiment.get("canaries") or {}
    if wanted.isdisjoint(canaries.OBJECTIVES):
        return {}
    return {"canaries": {**({} if wanted.isdisjoint(canaries.REPEATED) else {"runs": 3}), **given}}


def _refuse_unseen_canaries(sweep: Sweep, where: str) -> None:
    """Canaries stand in the training set: what is searched must score that, or be what the victim is trained by."""
    wanted = next((objective.name for objective in sweep.objectives if objective.name in canaries.OBJECTIVES), None)
    for defense in sweep.base().defenses if wanted else ():
        unseen = defense.role in ("scanners", "repairs") or getattr(defense.config, "pool", None) == "test"
        if unseen and defense.name in sweep.searched:
            raise UserError(
                f"{where}: objectives: {wanted} needs a score for each training image, and {defense.name} gives none",
                "Search a detector of the training set (pool: train) or a trainer that is a defense, or take another objective.",
            )


def _ranges(experiment: Mapping[str, Any], place: str, asked: Any, where: str) -> list[Range]:
    """The ranges of one place of the experiment."""
    parts = place.split(".")
    if len(parts) < 2 or parts[0] not in ROLES or not parts[1].isdigit():
        raise UserError(f"{where}: {place!r} is no method of the experiment", "Name a list and a position in it, like detectors.0.")
    try:
        fields = _fields(place, _at(experiment, place))
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise UserError(f"{where}: {place!r}: the experiment has no such place", "Positions begin at 0: detectors.0.") from error
    declared = {name: _declared(info) for name, info in fields.items() if _declared(info)}
    if asked == "all":
        if not declared:
            raise UserError(f"{where}.{place}: the method declares no ranges", "Give them here: {FIELD: {low: ..., high: ...}}.")
        asked = dict.fromkeys(declared)
    if not isinstance(asked, Mapping) or not asked:
        raise UserError(
            f"{where}.{place}: {asked!r} is no search space", "Write `all`, or {FIELD: null}, {FIELD: {low: , high: }}."
        )
    for name in asked:
        if name not in fields:
            raise UserError(f"{where}.{place}.{name}: unknown field", did_you_mean(str(name), fields))
    in_order = [name for name in fields if name in asked]  # conditions look at fields that are declared before
    return [_range(place, name, asked[name], fields[name], f"{where}.{place}.{name}") for name in in_order]


def _range(place: str, name: str, asked: Any, info: FieldInfo, at: str) -> Range:
    declared = _declared(info)
    space = dict(declared) if asked is None else asked
    if not space:
        raise UserError(f"{at}: the field declares no range", "Give one: {low: ..., high: ..., log: true} or {choices: [...]}.")
    if not isinstance(space, Mapping) or set(space) - {"when"} not in _RANGE_KEYS:
        raise UserError(f"{at}: {space!r} is no range", "Write {low: ..., high: ..., log: true} or {choices: [...]}.")
    when = declared.get("when") or {}
    common: dict[str, Any] = {"place": place, "field": name, "when": {other: tuple(wanted) for other, wanted in when.items()}}
    if "choices" in space:
        choices = space["choices"]
        if (
            not isinstance(choices, Sequence)
            or not choices
            or not all(c is None or isinstance(c, bool | int | float | str) for c in choices)
        ):
            raise UserError(f"{at}: choices: {choices!r}", "Give a list of numbers, words, true, false or null.")
        return Range(choices=tuple(choices), **common)
    low, high, log = space["low"], space["high"], space.get("log", False)
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high)) or not isinstance(log, bool):
        raise UserError(f"{at}: {dict(space)} does not hold numbers", "YAML reads 1e-3 as a word: write 1.0e-3.")
    if not low <= high or (log and low <= 0):
        raise UserError(f"{at}: {low:g} to {high:g} is no range", "low must not lie above high, nor at 0 with log: true.")
    return Range(low=low, high=high, log=log, integer=info.annotation is int, **common)


def _declared(info: FieldInfo) -> Mapping[str, Any]:
    extra = info.json_schema_extra
    return cast(Mapping[str, Any], extra.get("search", {})) if isinstance(extra, dict) else {}


def _fields(place: str, entry: Mapping[str, Any]) -> Mapping[str, FieldInfo]:
    last = place.rsplit(".", 1)[-1]
    role = cast(Role, place.split(".", maxsplit=1)[0]) if last.isdigit() else _NESTED[last]
    return method_class(role, entry["kind"]).model_fields


def _at(raw: Mapping[str, Any], place: str) -> dict[str, Any]:
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
