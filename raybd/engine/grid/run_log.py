"""Log of a run in the store, one event per line: enough for a post-mortem without the cluster."""

import json
import os
import time
from datetime import UTC, datetime
from typing import Any

from raybd.results.store import Store

WRITE_SECONDS = 5.0
"""Shortest pause between two writes."""
MAX_WRITING_SHARE = 0.02
"""Largest share of the run's time that writing may take: a remote store can be slow."""


class RunLog:
    """`runs/NAME/TIME-PID.jsonl`.

    The file is written as a whole, with a pause between two writes, so a driver that is killed
    loses its last lines.
    """

    def __init__(self, store: Store, name: str, write_seconds: float = WRITE_SECONDS) -> None:
        self._store = store
        self._path = f"runs/{name}/{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.jsonl"
        self._lines: list[str] = []
        self._write_seconds = write_seconds
        self._next_write = time.monotonic() + write_seconds

    def record(self, event: str, **facts: Any) -> None:
        """Add a line with the time, the event and facts about it; write the log if it is time."""
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "what": event, **facts}
        # `default`: a log takes whatever there is to say, such as a path.
        self._lines.append(json.dumps(line, default=str))
        if time.monotonic() >= self._next_write:
            self.write()

    def write(self) -> None:
        """Write all lines to the store."""
        began = time.monotonic()
        # Whole: object storage cannot append to a file.
        self._store.write(self._path, ("\n".join(self._lines) + "\n").encode())
        now = time.monotonic()
        self._next_write = now + max(self._write_seconds, (now - began) / MAX_WRITING_SHARE)
