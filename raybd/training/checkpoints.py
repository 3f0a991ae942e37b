"""The course of a training: its reports after each epoch, and the checkpoints from which it resumes."""

import io
import time
from typing import Any, Protocol

import torch
from torch import Generator

from raybd.distributed import group
from raybd.training.runtime import Facts, current, report


class Stateful(Protocol):
    """What can be taken up again."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and texts."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take it up."""


class TrainingRun:
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
        self.history.append(
            {"name": self.name, "epoch": len(self.history) + 1, "epochs": self.epochs, **facts}
        )
        report(self.history[-1])
        runtime = current()
        if runtime.save is None or group.rank() or not self.left():
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
        saved = group.broadcast(lambda: load(self.name)) if load is not None else None
        if saved is None:
            return
        state: dict[str, Any] = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.rng.set_state(state["rng"])
        self.history += state["history"]
        for facts in self.history:
            report(facts)
