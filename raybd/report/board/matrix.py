"""Methods against problems, as numbers: which values count in a comparison, and which do not.

A failed attack is no problem. A method that failed has the worst rank, one that is infeasible is
out for both sides, one that was not run lowers the coverage.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raybd.report.board.measures import Track
from raybd.report.board.rows import Problem, Row, attack_worked

COVERED = 0.5
"""Share of the problems that a method must have been run on, to be ranked."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Matrix:
    """The values of M methods on P problems: means over seeds."""

    problems: tuple[Problem, ...]
    kinds: tuple[str, ...]
    """The kind of attack of each problem: the cluster of the bootstrap."""
    methods: tuple[str, ...]
    rows: dict[tuple[Problem, str], Row]
    seeds: dict[Problem, tuple[int, ...]]
    """The seeds of a problem whose attack worked."""
    gated: tuple[Problem, ...]
    """Problems whose attack failed with all seeds: they are listed apart."""
    value_PM: Floats
    failed_PM: Flags
    infeasible_PM: Flags

    @property
    def there_PM(self) -> Flags:
        """Whether a method was run, and ended with a value or with a failure."""
        found: Flags = (~np.isnan(self.value_PM) | self.failed_PM) & ~self.infeasible_PM
        return found

    @property
    def datasets(self) -> list[str]:
        """The data set of each problem: the stratum of the bootstrap."""
        return [problem.dataset for problem in self.problems]

    def of(self, methods: Sequence[int], problems: Sequence[int] | None = None) -> "Matrix":
        """Return the columns of some methods, and the rows of some problems."""
        kept = list(range(len(self.problems))) if problems is None else list(problems)
        columns = list(methods)
        part = np.ix_(kept, columns)
        return Matrix(
            tuple(self.problems[at] for at in kept),
            tuple(self.kinds[at] for at in kept),
            tuple(self.methods[at] for at in columns),
            self.rows,
            self.seeds,
            self.gated,
            self.value_PM[part],
            self.failed_PM[part],
            self.infeasible_PM[part],
        )


def matrix(rows: Sequence[Row], track: Track) -> Matrix:
    """Return the matrix of a track under the default filter: no oracle, no benign control."""
    named = {
        (row.problem, name): row
        for row in rows
        for own, name in row.tracks
        if own == track.name and not row.oracle and not row.benign
    }
    found = {problem for problem, _ in named}
    weak = _weak_seeds(rows)
    used: dict[Problem, set[int]] = {problem: set() for problem in found}
    for (problem, _), row in named.items():
        used[problem] |= set(row.by_seed) - weak.get(problem, set())
    seeds = {problem: tuple(sorted(used[problem])) for problem in found}
    problems = tuple(sorted(problem for problem in found if seeds[problem]))
    methods = tuple(sorted({name for _, name in named}))
    shape = (len(problems), len(methods))
    values = np.full(shape, np.nan)
    failed = np.zeros(shape, bool)
    infeasible = np.zeros(shape, bool)
    kind = {row.problem: row.kind for row in rows}
    for p, problem in enumerate(problems):
        for m, method in enumerate(methods):
            own = named.get((problem, method))
            if own is not None:
                told = _told(own, seeds[problem], track)
                values[p, m], failed[p, m], infeasible[p, m] = told
    return Matrix(
        problems,
        tuple(kind[problem] for problem in problems),
        methods,
        named,
        seeds,
        tuple(sorted(found - set(problems))),
        values,
        failed,
        infeasible,
    )


def ranked(full: Matrix, track: Track) -> Matrix | None:
    """Return the matrix of the methods that can be ranked together, on seeds that they share.

    Methods that were run on too few problems are left out, and then the one with the fewest, until
    some problem has values of all. None: fewer than two are left.
    """
    there = full.there_PM.sum(0) / np.maximum((~full.infeasible_PM).sum(0), 1)
    order = sorted(range(len(full.methods)), key=lambda at: (-there[at], full.methods[at]))
    kept = [at for at in order if there[at] >= COVERED]
    while len(kept) > 1:
        part = _on_shared_seeds(full.of(sorted(kept)), track)
        if part.there_PM.all(1).any():
            return part
        kept.pop()
    return None


def _on_shared_seeds(part: Matrix, track: Track) -> Matrix:
    """Return the matrix with the means over the seeds that all methods of a problem have."""
    seeds = dict(part.seeds)
    values = np.full_like(part.value_PM, np.nan)
    failed = np.zeros_like(part.failed_PM)
    for p, problem in enumerate(part.problems):
        found = [part.rows.get((problem, method)) for method in part.methods]
        there = [row for row, is_there in zip(found, part.there_PM[p], strict=True) if is_there]
        shared = set(seeds[problem]).intersection(*(row.by_seed for row in there if row))
        seeds[problem] = tuple(sorted(shared))
        for m, row in enumerate(found):
            if row is not None and shared:
                values[p, m], failed[p, m], _ = _told(row, seeds[problem], track)
    return replace(part, seeds=seeds, value_PM=values, failed_PM=failed)


def _weak_seeds(rows: Sequence[Row]) -> dict[Problem, set[int]]:
    """Return the seeds of each problem with which the attack failed.

    All methods share the victim of a seed, and a cell that failed does not tell of it.
    """
    weak: dict[Problem, set[int]] = {}
    for row in rows:
        if not row.benign:
            seeds = {cell["seed"] for cell in row.cells if not attack_worked(cell)}
            weak.setdefault(row.problem, set()).update(seeds)
    return weak


def _told(row: Row, seeds: Sequence[int], track: Track) -> tuple[float, bool, bool]:
    """Return the mean over the seeds, whether any failed, and whether all are infeasible."""
    cells = [row.by_seed[seed] for seed in seeds if seed in row.by_seed]
    failed = any(cell["status"] == "failed" for cell in cells)
    infeasible = bool(cells) and all(cell["status"] == "infeasible" for cell in cells)
    numbers = [cell[track.measure.name] for cell in cells]
    values = [float(number) for number in numbers if number is not None]
    # A method that fails with one seed of three must not be judged by the other two.
    mean = float(np.mean(values)) if values and not failed else float("nan")
    return mean, failed, infeasible
