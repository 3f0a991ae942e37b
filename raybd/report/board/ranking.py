"""Who wins a track, how sure, at what cost: all numbers of one track, by `metrics.statistics`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from raybd.metrics.statistics.bootstrap import mean_over_clusters
from raybd.metrics.statistics.cliques import cliques
from raybd.metrics.statistics.differences import Difference, differences
from raybd.metrics.statistics.estimate import Estimate
from raybd.metrics.statistics.ranks import Ranking, WorstCase, rankings, worst_case
from raybd.metrics.statistics.seeds import over_seeds
from raybd.report.board.matrix import Matrix, matrix, ranked
from raybd.report.board.measures import Track, shown
from raybd.report.board.rows import Problem, Row

ACCURACY_BUDGET = 0.03
"""Clean accuracy that a defense may cost, in the worst case that is shown."""
SEED = 0
"""Of the draws of all intervals: two pages of one store are equal."""


@dataclass(frozen=True)
class Worst:
    """The problem on which a method does worst."""

    problem: Problem
    case: WorstCase
    over_budget: int
    """Number of problems on which it costs too much clean accuracy; they are not counted."""


@dataclass(frozen=True)
class Cost:
    """What a cell of a method costs on one kind of device, on average."""

    device: str
    seconds: float
    gpu_seconds: float
    cells: int


@dataclass(frozen=True)
class Standing:
    """A method of a track."""

    method: str
    mean: Estimate | None
    """Over the problems that all ranked methods have values for; of others over their own."""
    problems: int
    """Number of problems that `mean` is over."""
    ranking: Ranking | None
    """None: it was run on too few problems to be ranked."""
    worst: Worst | None
    benign: Estimate | None
    """None: there is no benign run."""
    costs: tuple[Cost, ...]
    failed: int
    """Number of problems on which it failed."""
    tuned_on: tuple[str, ...]


@dataclass(frozen=True)
class Standings:
    """A track: its methods, the best mean rank first, then those without a rank."""

    track: Track
    methods: tuple[Standing, ...]
    problems: tuple[Problem, ...]
    """The problems that the ranks are over."""
    gated: tuple[Problem, ...]
    """Problems whose attack failed."""
    cliques: tuple[tuple[str, ...], ...]
    """Groups of ranked methods that hold no significant difference."""
    differences: tuple[Difference, ...]
    """Of ranked methods; their columns are places in `compared`."""
    compared: tuple[str, ...]

    @property
    def ranked(self) -> list[Standing]:
        """The methods that have a rank."""
        return [one for one in self.methods if one.ranking is not None]


def standings(rows: Sequence[Row], track: Track) -> Standings:
    """Return the standings of a track under the default filter."""
    full = matrix(rows, track)
    part = ranked(full, track)
    if part is None:
        methods = [_standing(full, track, rows, method, None, None) for method in full.methods]
        return Standings(track, tuple(methods), (), full.gated, (), (), ())

    rng = np.random.default_rng(SEED)
    found = rankings(
        part.value_PM, part.kinds, rng, part.datasets, part.failed_PM, part.infeasible_PM
    )
    by_name = dict(zip(part.methods, found, strict=True))
    everywhere = np.flatnonzero(~np.isnan(part.value_PM).any(1)).tolist()
    valued = part.of(range(len(part.methods)), everywhere)
    common = part.of(range(len(part.methods)), np.flatnonzero(part.there_PM.all(1)).tolist())
    methods = [
        _standing(full, track, rows, method, by_name.get(method), valued) for method in full.methods
    ]

    def place(one: Standing) -> tuple[float, str]:
        return (one.ranking.rank.value if one.ranking else float("inf"), one.method)

    return Standings(
        track,
        tuple(sorted(methods, key=place)),
        common.problems,
        full.gated,
        _cliques(common),
        tuple(_differences(valued)),
        valued.methods,
    )


def _cliques(common: Matrix) -> tuple[tuple[str, ...], ...]:
    # One problem orders methods, and tells none of them apart.
    if len(common.problems) < 2:
        return ()
    # All values are shares: a failure is worse than each of them.
    value_PM = np.where(common.failed_PM, -1.0, common.value_PM)
    return tuple(tuple(common.methods[at] for at in group) for group in cliques(value_PM))


def _differences(valued: Matrix) -> list[Difference]:
    if not valued.problems:
        return []
    rng = np.random.default_rng(SEED)
    return differences(valued.value_PM, valued.kinds, rng, valued.datasets)


def _standing(
    full: Matrix,
    track: Track,
    rows: Sequence[Row],
    method: str,
    ranking: Ranking | None,
    valued: Matrix | None,
) -> Standing:
    column = full.methods.index(method)
    if ranking is None or valued is None:
        own = np.flatnonzero(~np.isnan(full.value_PM[:, column])).tolist()
        mean = _mean(full.of([column], own))
        problems = len(own)
    else:
        mean = _mean(valued.of([valued.methods.index(method)]))
        problems = len(valued.problems)
    own_rows = [row for row in rows if (track.name, method) in row.tracks and not row.oracle]
    return Standing(
        method,
        mean,
        problems,
        ranking,
        _worst(full, track, method),
        _benign([row for row in own_rows if row.benign], track),
        _costs(own_rows),
        int(full.failed_PM[:, column].sum()),
        tuple(sorted({row.sweep for row in own_rows if row.sweep})),
    )


def _mean(one: Matrix) -> Estimate | None:
    """Return the mean of the only method of a matrix."""
    if not one.problems:
        return None
    rng = np.random.default_rng(SEED)
    found = mean_over_clusters(one.value_PM[:, 0], one.kinds, rng, one.datasets)
    return found.within(0.0, 1.0)


def _worst(full: Matrix, track: Track, method: str) -> Worst | None:
    column = full.methods.index(method)
    own = [full.problems[at] for at in np.flatnonzero(~np.isnan(full.value_PM[:, column])).tolist()]
    within = [problem for problem in own if _within_budget(full, problem, method)]
    if not within:
        return None
    # The draws of seeds take equally many of each problem: those that all of them have.
    used = [set(full.seeds[problem]) for problem in within]
    seeds = sorted(
        set.intersection(*used, *(set(full.rows[problem, method].by_seed) for problem in within))
    )
    values = np.array(
        [[_value(full.rows[problem, method], seed, track) for seed in seeds] for problem in within]
    )
    if not seeds or np.isnan(values).any():
        values = full.value_PM[[full.problems.index(problem) for problem in within], column][
            :, None
        ]
    case = worst_case(values, np.random.default_rng(SEED))
    # All values are shares, and Student's interval of few seeds knows no bounds.
    case = replace(case, own=case.own.within(0.0, 1.0), minimum=case.minimum.within(0.0, 1.0))
    return Worst(within[case.attack], case, len(own) - len(within))


def _value(row: Row, seed: int, track: Track) -> float:
    value = row.by_seed[seed][track.measure.name]
    return float("nan") if value is None else float(value)


def _within_budget(full: Matrix, problem: Problem, method: str) -> bool:
    """Whether a method costs no more clean accuracy than it may; one that changes none does."""
    cells = full.rows[problem, method].by_seed
    falls = [
        cells[seed]["clean_accuracy"] - cells[seed]["defended_clean_accuracy"]
        for seed in full.seeds[problem]
        if seed in cells
        and None not in (cells[seed]["clean_accuracy"], cells[seed]["defended_clean_accuracy"])
    ]
    return not falls or float(np.mean(falls)) <= ACCURACY_BUDGET


def _benign(rows: Sequence[Row], track: Track) -> Estimate | None:
    """Return what a method does where nothing is poisoned.

    Of one problem the mean over its seeds; of several the mean over them. Of a defense the change
    of clean accuracy.
    """
    found = []
    for row in rows:
        if track.name == "defenses":
            changes = [
                cell["defended_clean_accuracy"] - cell["clean_accuracy"]
                for cell in row.cells
                if None not in (cell["defended_clean_accuracy"], cell["clean_accuracy"])
            ]
            one = over_seeds(changes) if changes else None
        else:
            one = shown(row.cells, track.benign)
        if one is not None:
            found.append(one)
    if len(found) < 2:
        return found[0] if found else None
    several = over_seeds([one.value for one in found])
    return several.within(-1.0 if track.name == "defenses" else 0.0, 1.0)


def _costs(rows: Sequence[Row]) -> tuple[Cost, ...]:
    """Return the mean cost of a cell by device: seconds of one are not those of another."""
    spent: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for cell in row.cells:
            if cell["status"] == "ok" and cell["device"] and cell["seconds"] is not None:
                device = str(cell["device"]).split(" (")[0]
                spent.setdefault(device, []).append((cell["seconds"], cell["gpu_seconds"] or 0.0))
    costs = []
    for device, pairs in sorted(spent.items()):
        seconds, gpu_seconds = np.mean(pairs, axis=0).tolist()
        costs.append(Cost(device, seconds, gpu_seconds, len(pairs)))
    return tuple(costs)
