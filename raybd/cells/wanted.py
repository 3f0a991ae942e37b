"""What an experiment wants of a cell; each kind of stage says whether it is a part of it."""

from dataclasses import dataclass

from raybd.cells.stage import VictimStage
from raybd.registry import Method


@dataclass(frozen=True)
class Wanted:
    """A victim, and what is done with it."""

    victim: VictimStage
    """The undefended victim."""
    twin: VictimStage
    """The victim of the same recipe without poison; a probe stands on the clean encoder."""
    defense: Method | None
    removal: bool
    """Whether to drop, or to refuse, what a detector flags, and to measure again."""
    canaries: Method | None = None
    """How verdicts are repeated, if that was asked for."""
    analyses: tuple[Method, ...] = ()

    @property
    def has_control(self) -> bool:
        """Whether results are compared with the clean twin: where an encoder is attacked."""
        return self.victim.encoder_stage is not None and self.victim.key != self.twin.key

    def defends_by(self, role: str) -> bool:
        """Whether the defense has this role."""
        return self.defense is not None and self.defense.role == role
