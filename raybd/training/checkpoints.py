"""The progress of a training: its report after each epoch, and the checkpoints of it."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from raybd.distributed import group
from raybd.training.checkpoint_file import DamagedCheckpoint, decode, encode
from raybd.training.runtime import Facts, current, put_back_seen, report, seen


class Stateful(Protocol):
    """What a checkpoint can hold."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors, numbers and strings."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Replace the state by one that `state_dict` returned."""


class TrainingRun:
    """A training in progress: its history and its checkpoints."""

    def __init__(
        self, name: str, epochs: int, rng: Generator, parts: Mapping[str, Stateful]
    ) -> None:
        """Resume from the runtime's checkpoint of this name, if there is one.

        `parts` is all that changes in the training, apart from `rng`.
        """
        self.name = name
        self.epochs = epochs
        self.rng = rng
        self.parts = parts
        self._history: list[Facts] = []
        # Taken before resuming, which moves the stream: it tells this run from others of its name.
        self._start = rng.get_state()
        self._resume()
        # Monotonic: a clock that is set back would put the next checkpoint off.
        self._saved_at = time.monotonic()

    @property
    def epochs_done(self) -> int:
        """Epochs that have ended."""
        return len(self._history)

    def remaining_epochs(self) -> range:
        """Return the epochs that are still to come, counted from 0."""
        return range(self.epochs_done, self.epochs)

    def end_epoch(
        self, intermediate_scores: Callable[[], Tensor] | None = None, **facts: Any
    ) -> None:
        """Report an epoch; save a checkpoint if it is time."""
        counted = {"name": self.name, "epoch": self.epochs_done + 1, "epochs": self.epochs}
        self._history.append(counted | facts)
        report(self._history[-1], intermediate_scores)

        runtime = current()
        # All workers hold the same state, so one saves it. After the last epoch nothing is left to
        # be resumed.
        if runtime.save is None or group.rank() or not self.remaining_epochs():
            return
        if time.monotonic() - self._saved_at >= runtime.every_seconds:
            runtime.save(self.name, self._state())
            self._saved_at = time.monotonic()

    def _state(self) -> bytes:
        return encode(
            {
                "history": self._history,
                "start": self._start,
                "rng": self.rng.get_state(),
                "parts": {name: part.state_dict() for name, part in self.parts.items()},
                "seen": seen(),
            }
        )

    def _resume(self) -> None:
        runtime = current()
        load = runtime.load
        saved = group.broadcast(lambda: load(self.name)) if load is not None else None
        if saved is None:
            return
        try:
            state: dict[str, Any] = decode(saved)
        except DamagedCheckpoint as error:
            # Every worker of a group reads the same bytes, and begins from the start.
            if runtime.set_aside is not None and group.rank() == 0:
                runtime.set_aside(self.name, f"{error}; the training begins from the start")
            return

        # A stage may run a method several times, each time from another random stream. The
        # checkpoint of another run is not ours.
        if not torch.equal(state["start"], self._start):
            return

        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.rng.set_state(state["rng"])
        # Checkpoints of an older raybd have none.
        put_back_seen(state.get("seen"))

        # Whoever listens has started anew as well, and needs the earlier epochs for the whole
        # history.
        self._history += state["history"]
        for facts in self._history:
            report(facts)
