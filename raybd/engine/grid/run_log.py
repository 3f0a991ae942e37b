"""What happened in a run, line by line in the store: enough for a post-mortem when the cluster is gone."""

import json
import os
import time
from datetime import UTC, datetime
from typing import Any

from raybd.results.store import Store

_PAUSE_SECONDS = 5.0
_LEAST_SHARE = 50
"""Writing takes at most one part of so many of the time."""


class RunLog:
    """`runs/NAME/TIME-PID.jsonl`. Written as a whole, so with a pause between two writes; a killed driver loses its last lines."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._lines = store, list[str]()
        self._path = f"runs/{name}/{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.jsonl"
        self._next = time.monotonic() + _PAUSE_SECONDS

    def note(self, what: str, **facts: Any) -> None:
        """One line: when, what, and more about it."""
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "what": what, **facts}
        self._lines.append(json.dumps(line, default=str))
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        """Bring it to the store."""
        began = time.monotonic()
        self._store.write(self._path, ("\n".join(self._lines) + "\n").encode())
        now = time.monotonic()
        self._next = now + max(_PAUSE_SECONDS, _LEAST_SHARE * (now - began))
