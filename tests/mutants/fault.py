"""A fault that can be planted into the source, and the tests that should notice it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """One wrong line."""

    name: str
    file: str
    """Path from the root of the repository."""
    right: str
    """What stands there. It occurs exactly once in the file."""
    wrong: str
    """What is put in its place."""
    what: str
    """What is wrong then."""
    tests: tuple[str, ...]
    """Arguments of pytest: files, single tests or `-k`."""

    def planted(self, text: str) -> str:
        """Return the text of the file with the fault. Raises ValueError if it does not fit."""
        found = text.count(self.right)
        if found != 1:
            raise ValueError(
                f"{self.name}: {self.file} has {self.right!r} {found} times, and not once"
            )
        return text.replace(self.right, self.wrong)

    def check(self, root: Path) -> None:
        """Raise ValueError if the fault does not fit the code below `root`, or has no test."""
        self.planted((root / self.file).read_text(encoding="utf-8"))
        if self.right == self.wrong:
            raise ValueError(f"{self.name}: nothing changes")
        paths = [word.split("::")[0] for word in self.tests if word.startswith("tests/")]
        missing = [path for path in paths if not (root / path).exists()]
        if missing or not paths:
            raise ValueError(f"{self.name}: no tests {missing or list(self.tests)}")
