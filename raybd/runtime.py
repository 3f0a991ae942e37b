"""What surrounds a running stage: where it reports and keeps checkpoints, and who wants to know halfway how good it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from raybd import parallel
from raybd.types import Report

Facts = dict[str, Any]


@dataclass(frozen=True)
class Runtime:
    """What surrounds a running stage: where it reports and where it keeps checkpoints. The default does neither."""

    report: Report | None = None
    save: Callable[[str, bytes], None] | None = None
    load: Callable[[str], bytes | None] | None = None
    every_seconds: float = 30.0
    """At most this much work is lost when a worker dies (and the epoch that was running)."""
    watched: bool = False
    """Whether somebody wants to know after each epoch how good it is, which costs time."""
    compile: bool = False
    """Train through torch.compile, outside of a group."""


_runtime: ContextVar[Runtime] = ContextVar("_runtime", default=Runtime())  # noqa: B039 - it is frozen
_judge: ContextVar[Callable[[Tensor], Facts] | None] = ContextVar("_judge", default=None)


def current() -> Runtime:
    """That of the stage which runs here."""
    return _runtime.get()


@contextmanager
def running(runtime: Runtime) -> Iterator[None]:
    """Everything that is fitted inside reports to and is checkpointed by `runtime`."""
    token = _runtime.set(runtime)
    try:
        yield
    finally:
        _runtime.reset(token)


def tell(facts: Facts) -> None:
    """Report what a running method has to say, to whoever listens: {"name", "epoch", "epochs", "loss", ...}."""
    report = _runtime.get().report
    if report is not None and parallel.rank() == 0:
        report(facts)


@contextmanager
def judged_by(judge: Callable[[Tensor], Facts]) -> Iterator[None]:
    """Scores halfway, in the order of the suspects, are held against what only the harness knows."""
    token = _judge.set(judge)
    try:
        yield
    finally:
        _judge.reset(token)


def halfway(score: Callable[[], Tensor]) -> Facts:
    """What the scores that a method would give now are worth; nothing, and nothing is computed, unless somebody watches.

    Every worker of a group calls this.
    """
    judge = _judge.get()
    return judge(score()) if judge is not None and _runtime.get().watched else {}
