"""What surrounds a running stage: where it reports its progress and where it keeps checkpoints.

The methods call `report`, and the stage that runs them says who listens. Nothing comes back to a
method.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from raybd.distributed import group
from raybd.types.kept import NOTHING, Kept
from raybd.types.models import Victim

Facts = dict[str, Any]
Report = Callable[[Mapping[str, Any]], None]
"""Receives the progress of a running stage: {"name", "epoch", "epochs", metrics...}."""


@dataclass(frozen=True)
class Runtime:
    """Where a running stage reports and where it keeps checkpoints. The default does neither."""

    report: Report | None = None
    """Receives the progress."""
    save: Callable[[str, bytes], None] | None = None
    """Keeps a checkpoint under a name."""
    load: Callable[[str], bytes | None] | None = None
    """Returns the checkpoint of a name, or None."""
    set_aside: Callable[[str, str], object] | None = None
    """Puts a damaged checkpoint out of the way, given its name and what is wrong."""
    every_seconds: float = 30.0
    """Time between checkpoints: the most work that a dead worker loses, plus its current epoch."""
    watched: bool = False
    """Whether intermediate results are evaluated after each epoch, which costs time."""
    kept: Kept = NOTHING
    """What is kept of a victim beside its numbers."""
    compile: bool = False
    """Whether to train through torch.compile (only outside of a process group)."""


@dataclass(frozen=True)
class Epoch:
    """A victim after an epoch of its training."""

    name: str
    """The name of the training."""
    epoch: int
    """Epochs that have ended."""
    victim: Victim
    """The victim as it is trained; who looks at it must leave it as it was."""
    lr: float | None
    seconds: float
    """How long the training of the epoch took."""


class Watcher(Protocol):
    """Looks at a victim after each epoch. Nothing of what it sees comes back to the training."""

    def see(self, epoch: Epoch) -> None:
        """Look at it. Every worker of a group calls this."""

    def state_dict(self) -> dict[str, Any]:
        """Return what it saw, for the checkpoints of the training."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Replace what it saw by what `state_dict` returned."""


_SILENT = Runtime()
_runtime: ContextVar[Runtime] = ContextVar("_runtime", default=_SILENT)
_watcher: ContextVar[Watcher | None] = ContextVar("_watcher", default=None)
_judge: ContextVar[Callable[[Tensor], Facts] | None] = ContextVar("_judge", default=None)


def current() -> Runtime:
    """Return the runtime of the stage that runs in this context."""
    return _runtime.get()


@contextmanager
def running(runtime: Runtime) -> Iterator[None]:
    """Let everything inside report to `runtime` and keep its checkpoints there."""
    token = _runtime.set(runtime)
    try:
        yield
    finally:
        _runtime.reset(token)


def report(facts: Facts, intermediate_scores: Callable[[], Tensor] | None = None) -> None:
    """Report the progress of a running method: {"name", "epoch", "epochs", "loss", ...}.

    `intermediate_scores` computes the scores that a detector would give now, in the order of its
    suspects. If the runtime is watched, they are evaluated for the listener; the method itself
    does not learn the result. Every worker of a group calls this.
    """
    runtime = current()
    judge = _judge.get()
    if intermediate_scores is not None and judge is not None and runtime.watched:
        # All workers compute the scores, because that may be a collective operation.
        facts = facts | judge(intermediate_scores())
    if runtime.report is not None and group.rank() == 0:
        runtime.report(facts)


@contextmanager
def judged_by(judge: Callable[[Tensor], Facts]) -> Iterator[None]:
    """Let `judge` evaluate the intermediate scores of a detector, in the order of its suspects."""
    token = _judge.set(judge)
    try:
        yield
    finally:
        _judge.reset(token)


@contextmanager
def watched_by(watcher: Watcher | None) -> Iterator[None]:
    """Let `watcher` see each victim that is trained inside, after each epoch; None: nobody does."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def show(epoch: Epoch) -> None:
    """Show a victim to whoever watches. Its modules are put back into the mode that they have."""
    watcher = _watcher.get()
    if watcher is None:
        return
    modes = [(module, module.training) for module in epoch.victim.modules()]
    watcher.see(epoch)
    for module, mode in modes:
        module.training = mode


def seen() -> dict[str, Any] | None:
    """Return what whoever watches saw, for a checkpoint; None: nobody watches."""
    watcher = _watcher.get()
    return None if watcher is None else watcher.state_dict()


def put_back_seen(state: dict[str, Any] | None) -> None:
    """Give whoever watches what he had seen when a checkpoint was saved."""
    watcher = _watcher.get()
    if watcher is not None and state is not None:
        watcher.load_state_dict(state)
