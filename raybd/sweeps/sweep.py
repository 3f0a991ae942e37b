"""A sweep: an experiment, a search space over its methods, and objectives. No Ray."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from raybd.cells.cell import Cell
from raybd.cells.stage import content_hash
from raybd.plan import file as experiment_file
from raybd.plan.experiment import Experiment
from raybd.plan.graph import OpenData, open_labels
from raybd.plan.places import with_absolute_paths
from raybd.sweeps.objectives import Objective
from raybd.sweeps.ranges import Params, Range, entry_around, entry_at, fields_of, set_values
from raybd.types.errors import UserError

if TYPE_CHECKING:
    import optuna

Pruning = Literal["none", "asha", "median"]
Row = dict[str, Any]
"""One row of the trials table."""

DEFAULT = "default"
"""The trial with the values of the sweep's own file."""
_DEFENDING_ROLES = {"detectors", "scanners", "repairs", "trainers", "training_defenses"}
"""Lists whose entries play a part only in the cells that name them."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep file asks for."""

    name: str
    raw: Mapping[str, Any]
    """The experiment as written in the sweep's file, with the name of the sweep."""
    where: str
    """Prefix of its error messages: the file, and the place in it."""
    ranges: tuple[Range, ...]
    objectives: tuple[Objective, ...]
    trials: int
    seed: int
    sampler: str
    concurrency: int
    pruning: Pruning
    """The rule that stops bad trials early, by their first objective."""
    held_out: tuple[Mapping[str, Any], ...]
    """Attacks that no trial uses."""
    folder: Path
    """The working folder in which its file was read; trials run in others."""

    @property
    def oracle(self) -> bool:
        """Whether any objective takes ground truth that a defender lacks."""
        return any(objective.oracle for objective in self.objectives)

    @property
    def places(self) -> tuple[str, ...]:
        """The places of the methods whose fields are searched."""
        return tuple(dict.fromkeys(found.place for found in self.ranges))

    @property
    def searched(self) -> frozenset[str]:
        """Names in the tables of the methods that are searched, or that hold a searched one."""
        entries = [entry_around(self.raw, place) for place in self.places]
        return frozenset(entry.get("name", entry["kind"]) for entry in entries)

    @property
    def definition(self) -> str:
        """A hash of what makes trials comparable. It leaves out `trials`, which may grow."""
        ranges = [(found.name, str(found)) for found in self.ranges]
        return content_hash(self.raw, ranges, [(o.name, o.direction) for o in self.objectives])

    @property
    def about(self) -> dict[str, Any]:
        """What a reader of the results needs besides the trials, as JSON.

        `defaults` has the value of each field that a trial with the values of the file would use.
        """
        objectives = [{"name": one.name, "direction": one.direction} for one in self.objectives]
        defaults = {
            found.name: self._value(found.place, found.field, {})
            for found in self.ranges
            if self._condition_holds(found, {})
        }
        seen = {attack.name for attack in self.base().attacks}
        compared = self.comparison({}).attacks
        return {
            "objectives": objectives,
            "space": {found.name: str(found) for found in self.ranges},
            "defaults": defaults,
            "held_out": [attack.name for attack in compared if attack.name not in seen],
        }

    def base(self) -> Experiment:
        """Return the experiment as it is in the file: what all trials share, and the defaults."""
        return self.experiment({})

    def experiment(self, params: Params, name: str | None = None) -> Experiment:
        """Return the experiment with these values. Raises UserError if a method refuses them."""
        raw = copy.deepcopy(dict(self.raw))
        set_values(raw, params)
        return self._parsed({**raw, "name": name or self.name})

    def comparison(self, params: Params) -> Experiment:
        """Return the methods of the file beside the same methods with these values.

        All attacks are in it, the held-out ones, too. No canaries are planted.
        """
        raw = copy.deepcopy(dict(self.raw))
        # They serve the objectives of the trials, and change the training set that is compared.
        raw.pop("canaries", None)
        best = copy.deepcopy(raw)
        set_values(best, params)

        # Two searched places may be in one entry: a trainer and its network.
        entries = dict.fromkeys(tuple(place.split(".")[:2]) for place in self.places)
        for role, index in entries:
            entry = best[role][int(index)]
            raw[role].append({**entry, "name": f"{entry.get('name', entry['kind'])}_best"})
        raw["attacks"] += [dict(attack) for attack in self.held_out]
        return self._parsed({**raw, "name": f"{self.name}_best"})

    def suggest(self, trial: Any) -> Params:
        """Return values for one Optuna trial, field by field.

        A field whose condition does not hold is left out, so that it keeps the value of the file.
        """
        params: Params = {}
        for found in self.ranges:
            if self._condition_holds(found, params):
                params[found.name] = found.suggest(trial)
        return params

    def refused(self, params: Params, side: int) -> str | None:
        """Return why a method refuses these values, if one does; images are `side` pixels wide."""
        try:
            asked = self.experiment(params)
        except UserError as error:
            # Values can contradict each other although each is in its range.
            return error.what
        methods = [
            method.config
            for method in (*asked.defenses, *(training.trainer for training in asked.trainings))
        ]
        # Some limits depend on the size of the images, which no validation of fields can know.
        reasons = (method.refused(side) for method in methods)
        return next((reason for reason in reasons if reason), None)

    def cells_of(self, experiment: Experiment, opened: OpenData = open_labels) -> tuple[Cell, ...]:
        """Return the feasible cells whose results the searched fields can change."""
        cells = [cell for cell in experiment.cells(opened) if not cell.infeasible]
        roles = {place.split(".")[0] for place in self.places}
        if not roles <= _DEFENDING_ROLES:
            return tuple(cells)  # a data set or an attack changes every cell
        return tuple(
            cell
            for cell in cells
            if not self.searched.isdisjoint(
                method.name for method in (cell.trainer, *cell.defenses)
            )
        )

    def _parsed(self, raw: Mapping[str, Any]) -> Experiment:
        return experiment_file.parse(with_absolute_paths(raw, self.folder), self.where)

    def _condition_holds(self, found: Range, params: Params) -> bool:
        conditions = found.when or {}
        return all(
            self._value(found.place, other, params) in wanted
            for other, wanted in conditions.items()
        )

    def _value(self, place: str, field: str, params: Params) -> Any:
        """Return the value of a field: that of the trial, else of the file, else the default."""
        name = f"{place}.{field}"
        if name in params:
            return params[name]
        entry = entry_at(self.raw, place)
        return entry[field] if field in entry else fields_of(place, entry)[field].default


def make_sampler(sweep: Sweep, number: int) -> "optuna.samplers.BaseSampler":
    """Return Optuna's sampler for the trial of this number.

    Its seed depends on the seed of the sweep and the number alone, so that a sweep that was
    interrupted draws what it would have drawn without.
    """
    import optuna

    # Hashed: of seeds that follow each other, the sweeps would share most of their trials.
    seed = int(np.random.SeedSequence((sweep.seed, number)).generate_state(1)[0])
    if sweep.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if sweep.sampler == "nsga2":
        # Four generations, if there are enough trials: Optuna's default of 50 could be all trials.
        population = max(4, min(50, sweep.trials // 4))
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=population)
    return optuna.samplers.TPESampler(seed=seed)


def as_json(value: Mapping[str, Any]) -> str:
    """Return parameters or objectives as the text of a column."""
    # Sorted, so that equal values are equal texts.
    return json.dumps(value, sort_keys=True)
