"""Which stages and cells of a grid wait for which stages."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from raybd.cells.cell import Cell
from raybd.cells.stage import Stage


@dataclass
class DependencyTracker:
    """The stages and cells that are left, and the stages that each of them waits for.

    A stage waits for all stages that it depends on, directly or not: if an overlay is damaged under
    a victim that is in the store, a detector on that victim waits for the overlay.
    """

    stages: dict[str, Stage]
    """Stages to run, by key; those that run are still among them."""
    cells: dict[str, Cell]
    """Cells without a row, by id."""
    ready: list[str] = field(default_factory=list)
    """Keys and ids of what became ready; the caller empties it."""
    stages_left: Counter[str] = field(default_factory=Counter)
    """Number of stages that are left, for each data set."""
    _missing: dict[str, set[str]] = field(default_factory=dict)
    """Keys of the stages that each stage or cell waits for."""
    _dependents: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Keys and ids of what waits for each stage."""

    def __post_init__(self) -> None:
        self.stages_left.update(stage.data for stage in self.stages.values())
        paths = {key: tuple(stage.path()) for key, stage in self.stages.items()}
        paths |= {id_: cell.stages() for id_, cell in self.cells.items()}

        for name, path in paths.items():
            needed = {stage.key for stage in path if stage.key != name}
            # What is not among the stages to run is in the store.
            self._missing[name] = needed & self.stages.keys()
            for key in self._missing[name]:
                self._dependents[key].append(name)

        # Cells first: they hold nothing, and their rows are done at once.
        self.ready = [name for name in (*self.cells, *self.stages) if not self._missing[name]]

    def mark_finished(self, key: str) -> Stage:
        """Remove a stage that is in the store now, and return it; add to `ready` what it freed."""
        for name in self._dependents.pop(key, []):
            self._missing[name].discard(key)
            # Some dependents are gone: dropped, or recorded together with their last stage.
            if not self._missing[name] and (name in self.cells or name in self.stages):
                self.ready.append(name)
        return self._remove(key)

    def mark_failed(self, key: str) -> list[Cell]:
        """Remove a stage that failed and all that depends on it; return the cells among that."""
        self._remove(key)
        lost = []
        # Dependents include the indirect ones, so there is nothing to follow from them.
        for name in self._dependents.pop(key, []):
            if name in self.cells:
                lost.append(self.cells.pop(name))
            elif name in self.stages:
                self._remove(name)
        return lost

    def cells_waiting_only_for(self, key: str) -> list[Cell]:
        """Return the cells that wait for this stage and for no other."""
        return [
            self.cells[name]
            for name in self.dependents(key)
            if name in self.cells and self._missing[name] == {key}
        ]

    def dependents(self, key: str) -> tuple[str, ...]:
        """Return the keys and ids of what waits for a stage."""
        return tuple(self._dependents.get(key, ()))

    def _remove(self, key: str) -> Stage:
        stage = self.stages.pop(key)
        self.stages_left[stage.data] -= 1
        return stage
