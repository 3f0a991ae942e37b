"""What an experiment wants of a cell; each kind of stage says whether it is a part of it."""

from dataclasses import dataclass, field
from typing import TypeVar, cast

from raybd.cells.stage import Stage, VictimStage
from raybd.registry import Method

Kind = TypeVar("Kind", bound=Stage)


@dataclass(frozen=True)
class Wanted:
    """A victim, and what is done with it."""

    victim: VictimStage
    """The undefended victim; or the defended one, which another defense looks at."""
    twin: VictimStage
    """The victim of the same recipe without poison; a probe stands on the clean encoder."""
    defense: Method | None
    removal: bool
    """Whether to drop, or to refuse, what a detector flags, and to measure again."""
    canaries: Method | None = None
    """How verdicts are repeated, if that was asked for."""
    analyses: tuple[Method, ...] = ()
    _stages: dict[type[Stage], Stage | None] = field(default_factory=dict, repr=False)
    """Each kind is asked once, so that a stage which several others read is one object."""

    def stage(self, kind: type[Kind]) -> Kind | None:
        """Return the stage of this kind at the end of the cell's path, if the cell has one."""
        if kind not in self._stages:
            self._stages[kind] = kind.for_cell(self)
        return cast(Kind | None, self._stages[kind])

    @property
    def has_control(self) -> bool:
        """Whether results are compared with the clean twin: where an encoder is attacked."""
        return self.victim.encoder_stage is not None and self.victim.key != self.twin.key

    def defends_by(self, role: str) -> bool:
        """Whether the defense has this role."""
        return self.defense is not None and self.defense.role == role

    @property
    def scanner(self) -> Method | None:
        """The scanner of the cell: its defense, or what its repair stands on."""
        if self.defense is None or self.defends_by("scanners"):
            return self.defense
        return self.defense.scan
