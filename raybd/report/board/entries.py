"""Entries from outside: numbers that others measured or reported. They are shown, and have no rank.

One JSON file each, below board/entries/ of a store.
"""

import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from raybd.results.parquet import Unsound
from raybd.results.store import Store
from raybd.types.errors import UserError

FOLDER = "board/entries"
MAX_BYTES = 2**20


class Number(BaseModel):
    """One number of an entry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    network: str
    attack: str
    rate: float = Field(ge=0, le=1)
    defense: str = "none"
    measure: Literal["auroc", "der", "called", "attack_success", "defended_attack_success"]
    value: float = Field(ge=0, le=1)
    low: float | None = Field(None, ge=0, le=1)
    high: float | None = Field(None, ge=0, le=1)
    seeds: int | None = Field(None, ge=1)


class Entry(BaseModel):
    """What somebody else says of a method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    authors: str
    paper: str
    """Title, DOI or arXiv number."""
    code: str | None = None
    licence: str | None = None
    numbers: Literal["measured", "reported"]
    """Whether somebody ran it for this entry, or a paper says so."""
    unreliable: str | None = None
    """Why the numbers should not be trusted."""
    bundle: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the SHA256SUMS of the results bundle that holds them."""
    target: str | None = None
    """The defense that an adaptive attack was made against: its row shows the best known attack."""
    results: tuple[Number, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _measured_has_a_bundle(self) -> "Entry":
        if self.numbers == "measured" and self.bundle is None:
            raise ValueError("measured numbers need `bundle`, so that they can be computed again")
        return self


def entries_of(store: Store) -> tuple[Entry, ...]:
    """Return the entries of a store, by file name. Raises UserError for one that is not sound."""
    return tuple(_entry(store, path) for path in sorted(store.files(f"{FOLDER}/*.json")))


def best_known(entries: Sequence[Entry], method: str, measure: str) -> Number | None:
    """Return the number of the external attack that is worst for a method; None if none is."""
    found = [
        number
        for entry in entries
        if entry.target == method and entry.unreliable is None
        for number in entry.results
        if number.measure == measure
    ]
    # AUROC, DER and called models: a stronger attack has the lower one.
    return min(found, key=lambda number: (number.value, number.attack), default=None)


def _entry(store: Store, path: str) -> Entry:
    name = PurePosixPath(path).name
    try:
        return Entry.model_validate(json.loads(store.read(path, MAX_BYTES)))
    except (ValueError, RecursionError, Unsound) as error:
        what = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            at = ".".join(map(str, first["loc"]))
            what = f"{at}: {first['msg']}" if at else str(first["msg"])
        raise UserError(
            f"{FOLDER}/{name}: {what}",
            "An entry has name, authors, paper, numbers (measured or reported) and results; see "
            "docs/guide/board.md.",
        ) from error
