"""The journal of Optuna's study: a file to which the driver of a sweep alone appends.

A hash of all its lines is kept beside it, and checked when a driver takes the journal up. A damaged
journal is set aside, and the study begins again: the rows of the trials, which have checksums of
their own, tell it what was measured.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from raybd.results.failures import store_errors
from raybd.results.parquet import Unsound
from raybd.results.store import Store
from raybd.sweeps.identity import MAX_JOURNAL_BYTES
from raybd.sweeps.sweep import Sweep

MAX_HASH_BYTES = 2**10
"""Size of the file with the hash of a journal; it has a number and a hash."""


class Journal(JournalFileBackend):
    """The journal file: in the store, or, if that is no folder, a local copy of the one there."""

    def __init__(self, sweep: Sweep, store: Store) -> None:
        self._store = store
        self._name = f"sweeps/{sweep.name}/study.journal"
        self._hash_name = f"sweeps/{sweep.name}/study.sha256"
        sound = self._sound_lines(sweep)
        # Whole, and without a part of a line that a driver left that was killed.
        store.write(self._name, sound)
        if store.local:
            self.path = Path(store.at(self._name))
        else:
            # Optuna appends to a file and locks it, which object storage cannot.
            self.path = Path(tempfile.mkdtemp(prefix="raybd-")) / "study.journal"
            self.path.write_bytes(sound)
        self._hashed = hashlib.sha256(sound)
        self._hashed_bytes = len(sound)
        self._write_hash()
        super().__init__(str(self.path))

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles what it searches with. Nobody reads that, and a hash can't be pickled.
        return {name: value for name, value in vars(self).items() if name != "_hashed"}

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines, and write the new hash."""
        with store_errors(self._store.url, self._name, "written"):
            super().append_logs(logs)
            with self.path.open("rb") as file:
                file.seek(self._hashed_bytes)
                new = file.read()
        self._hashed.update(new)
        self._hashed_bytes += len(new)
        # In object storage, `upload` writes both.
        if self._store.local:
            self._write_hash()

    def upload(self) -> None:
        """Write the local copy to the store, if there is one."""
        if not self._store.local:
            # The hash last: it may be of fewer lines than there are, not of more.
            self._store.write(self._name, self.path.read_bytes())
            self._write_hash()

    def _write_hash(self) -> None:
        told = f"{self._hashed_bytes} {self._hashed.hexdigest()}\n"
        self._store.write(self._hash_name, told.encode())

    def _sound_lines(self, sweep: Sweep) -> bytes:
        """Return the lines of the journal in the store; b"" if there are none, or damaged ones."""
        try:
            content = self._store.read_if_there(self._name, MAX_JOURNAL_BYTES)
            if content is None:
                return b""
            whole = content[: content.rfind(b"\n") + 1]
            why = self._damage(whole, sweep)
        except Unsound as error:
            why = str(error)
        if why is None:
            return whole
        self._store.quarantine(self._name, f"{why}, and the study begins again from the trials")
        return b""

    def _damage(self, lines: bytes, sweep: Sweep) -> str | None:
        """Return what is wrong with the lines of a journal; None if nothing is."""
        try:
            told = self._store.read_if_there(self._hash_name, MAX_HASH_BYTES)
        except Unsound:
            return "has a hash that is none"
        # Journals of older versions have none.
        if told is not None:
            length, _, digest = told.decode(errors="replace").strip().partition(" ")
            size = int(length) if length.isascii() and length.isdigit() else -1
            # Lines that follow were written right before the driver was killed.
            hashed = hashlib.sha256(lines[:size] if size >= 0 else b"")
            if not 0 <= size <= len(lines) or hashed.hexdigest() != digest:
                return "does not match its hash"
        try:
            studies = JournalStorage(_Lines(lines)).get_all_studies()
        # Optuna raises anything for lines that are not of a journal.
        except Exception as error:
            return f"is no journal of Optuna's ({type(error).__name__})"
        directions = {study.study_name: [one.name for one in study.directions] for study in studies}
        wanted = [objective.direction.upper() for objective in sweep.objectives]
        if lines and directions.get(sweep.name) != wanted:
            return "is not the journal of this sweep"
        return None


class _Lines(BaseJournalBackend):
    """The lines of a journal, to be read only."""

    def __init__(self, lines: bytes) -> None:
        self._logs = [json.loads(line) for line in lines.splitlines()]

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Return the lines from a number on."""
        return iter(self._logs[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Refuse: it is read only."""
        raise PermissionError("these lines are read only")
