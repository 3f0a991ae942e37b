"""A cell: dataset x attack x trainer x defense x seed, a path through the stages, one row."""

from dataclasses import dataclass
from functools import cached_property

from raybd.cells.stage import Stage, VictimStage, content_hash
from raybd.registry import Method
from raybd.types.kept import Kept

THEN = ">"
"""Between the names of a defense and of the one that looks at its victim. No name has it."""


@dataclass(frozen=True)
class Cell:
    """One row of the results."""

    experiment: str
    dataset: Method
    attack: Method
    trainer: Method
    network: Method
    defense: Method | None
    seed: int
    victim: VictimStage
    """The undefended victim."""
    last: Stage
    """The end of its path: the victim itself, or what the defense does."""
    infeasible: str | None = None
    """Why it cannot be run, if so."""
    judged: VictimStage | None = None
    """The defended victim that the defense looks at; None: it looks at the undefended one."""
    control: Stage | None = None
    """The same on the clean twin: attack success, a detector or a scan without a backdoor."""
    extras: tuple[Stage, ...] = ()
    """Further stages on the end of its path: repeated verdicts, analyses."""
    kept: Kept = Kept()
    """What is kept of its victims beside their numbers."""
    config_id: str = ""
    """The configuration of the experiment: a hash of all its cells."""

    @property
    def defense_name(self) -> str:
        """The name in the tables; `none` is the undefended victim.

        One that looks at the victim of another defense has both names: `fine_tune>strip`.
        """
        return THEN.join(method.name for method in self.defenses) or "none"

    @property
    def defenses(self) -> tuple[Method, ...]:
        """The defenses in the order in which they act: none, one, or one after another."""
        first = (self.judged.method,) if self.judged is not None else ()
        return (*first, self.defense) if self.defense is not None else first

    @property
    def suspicion(self) -> Stage | None:
        """The stage that gives suspicion, if there is one."""
        return self.last.suspicion

    @cached_property
    def id(self) -> str:
        """The name of its files."""
        names = [method.name for method in (self.dataset, self.attack, self.trainer, self.network)]
        return content_hash(self.experiment, names, self.defense_name, self.last.key)[:16]

    def stages(self) -> tuple[Stage, ...]:
        """Return its path through the graph, in an order of execution; each stage once."""
        ends = (self.victim, self.last, self.control, *self.extras)
        return tuple({stage.key: stage for end in ends if end for stage in end.path()}.values())

    def keys(self) -> dict[str, str]:
        """Return the key of each of its stages, by name.

        Of the clean twin's stages only the last is there, as `control`, if its own have the name.
        Of two stages of one name on its path, such as a scan before and one after a repair, the
        later one is there.
        """
        # The cell's own stages last: they then replace those of the twin, name by name.
        ends = (self.control, *self.extras, self.victim, self.last)
        own = {stage.name: stage.key for end in ends if end for stage in end.path()}
        return {**own, **({"control": self.control.key} if self.control else {})}

    def __str__(self) -> str:
        names = (self.dataset.name, self.attack.name, self.trainer.name, self.defense_name)
        return " x ".join([*names, f"seed {self.seed}"])
