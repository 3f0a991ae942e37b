"""What of a grid waits for what."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from raybd.cells.cell import Cell
from raybd.cells.stage import Stage


@dataclass
class DependencyTracker:
    """The stages and cells that are left, and what each of them still wants."""

    stages: dict[str, Stage]
    cells: dict[str, Cell]
    unmet: dict[str, set[str]] = field(default_factory=dict)
    waiting: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    ready: list[str] = field(default_factory=list)
    users: Counter[str] = field(default_factory=Counter)
    """How many stages are left, for each data set."""

    def __post_init__(self) -> None:
        self.users.update(stage.data for stage in self.stages.values())
        needs = {
            # All that it stands on, directly or not: what was damaged is computed again first.
            key: {upstream.key for upstream in stage.path()} - {key}
            for key, stage in self.stages.items()
        }
        needs |= {id_: {stage.key for stage in cell.stages()} for id_, cell in self.cells.items()}
        for name, needed in needs.items():
            self.unmet[name] = needed & self.stages.keys()
            for key in self.unmet[name]:
                self.waiting[key].append(name)
        self.ready = [name for name in [*self.cells, *self.stages] if not self.unmet[name]]

    def done(self, key: str) -> None:
        """A stage is in the store: what waited only for it is ready."""
        for name in self.waiting.pop(key, []):
            self.unmet[name].discard(key)
            if not self.unmet[name] and (name in self.cells or name in self.stages):
                self.ready.append(name)

    def take(self, key: str) -> Stage:
        """A stage that will not run (again)."""
        stage = self.stages.pop(key)
        self.users[stage.data] -= 1
        return stage

    def completed_by(self, key: str) -> list[Cell]:
        """The cells that wait for this stage alone."""
        return [
            self.cells[name]
            for name in self.waiting.get(key, ())
            if name in self.cells and self.unmet[name] == {key}
        ]

    def give_up(self, key: str) -> list[Cell]:
        """A stage failed: nothing that stands on it can run. Returns the cells among that."""
        lost = []
        for name in self.waiting.pop(key, []):
            self.unmet[name].discard(key)
            if name in self.cells:
                lost.append(self.cells.pop(name))
            elif name in self.stages:
                self.take(name)
                lost += self.give_up(name)
        return lost
