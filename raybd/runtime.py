"""What surrounds a running stage: where it reports and keeps checkpoints, and who wants to know halfway how good it is."""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from raybd import parallel
from raybd.types import Report

Facts = dict[str, Any]


class Stateful(Protocol):
    """What can be taken up again."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and texts."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take it up."""


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


class Course:
    """A training as it goes on: what it reports after each epoch, and the checkpoints from which it is taken up again."""

    def __init__(self, name: str, epochs: int, rng: Generator, parts: dict[str, Stateful]) -> None:
        """Take up the runtime's checkpoint of this name, if there is one. `parts` is all that changes, beside `rng`."""
        self.name, self.epochs, self.rng, self.parts = name, epochs, rng, parts
        self.history: list[Facts] = []
        self._take_up()
        self._saved_at = time.monotonic()

    def left(self) -> range:
        """The epochs that are still to come, from 0."""
        return range(len(self.history), self.epochs)

    def ended(self, **facts: Any) -> None:
        """Report an epoch; save a checkpoint if it is time."""
        self.history.append({"name": self.name, "epoch": len(self.history) + 1, "epochs": self.epochs, **facts})
        tell(self.history[-1])
        runtime = current()
        if runtime.save is None or parallel.rank() or not self.left():
            return
        if time.monotonic() - self._saved_at >= runtime.every_seconds:
            runtime.save(self.name, self._state())
            self._saved_at = time.monotonic()

    def _state(self) -> bytes:
        buffer = io.BytesIO()
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        torch.save({"history": self.history, "rng": self.rng.get_state(), "parts": parts}, buffer)
        return buffer.getvalue()

    def _take_up(self) -> None:
        load = current().load
        saved = parallel.from_first(lambda: load(self.name)) if load is not None else None
        if saved is None:
            return
        state: dict[str, Any] = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.rng.set_state(state["rng"])
        self.history += state["history"]
        for facts in self.history:
            tell(facts)


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
