"""Which part of a data set a file or folder belongs to, by its name."""

import re
from collections.abc import Iterable

from raybd.reading.notes import say_once
from raybd.types.data import Pool

WORDS: tuple[tuple[Pool, tuple[str, ...]], ...] = (
    ("train", ("train", "training")),
    ("test", ("test", "testing")),
    ("test", ("validation", "val", "valid", "dev", "eval")),
)
"""In the order in which they are taken: validation images are the test part if nothing else is."""
_WORD = re.compile(r"(?:^|[^a-z])(" + "|".join(w for _, ws in WORDS for w in ws) + r")(?![a-z])")


def split_word(name: str) -> str | None:
    """Return the word for a split that a name holds, as `train` in `train-00000-of-00004`."""
    found = _WORD.search(name.lower())
    return found.group(1) if found else None


def parts_of(words: Iterable[str], where: str) -> dict[str, Pool]:
    """Return the part of each of these words; a word without one is left out, and that is said.

    Both test and validation images there: the latter are left out.
    """
    found = set(words)
    parts: dict[str, Pool] = {}
    for pool, known in WORDS:
        here = found.intersection(known)
        if pool in parts.values():
            for word in sorted(here):
                say_once(f"{where}: {word!r} is not read: there is another {pool} part")
        else:
            parts |= dict.fromkeys(here, pool)
    return parts
