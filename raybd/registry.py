"""A method's file name is its name: raybd/<role>/<kind>.py holds one public Config class. A dotted kind loads a user's own file."""

import ast
import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from raybd.errors import UserError

if TYPE_CHECKING:
    from raybd.types import Config

Role = Literal["datasets", "networks", "attacks", "trainers", "detectors", "scanners", "repairs"]
ROLES: tuple[Role, ...] = ("datasets", "networks", "attacks", "trainers", "detectors", "scanners", "repairs")


@dataclass(frozen=True)
class Method:
    """One method with its hyperparameters, as an experiment names it."""

    role: Role
    kind: str
    config: "Config"
    name: str
    """What stands in the tables: the kind, unless the experiment gives another name."""
    trusted: "Trusted | None" = None
    """Of a detector: where its trusted images come from, if not from the clean part of the data set."""

    def describe(self) -> dict[str, Any]:
        """Kind, version and every field, defaults filled in, as JSON; fields marked `exclude` (paths) play no part in a result."""
        trusted = {"trusted": self.trusted.describe()} if self.trusted is not None else {}
        return {"kind": self.kind, "version": type(self.config).version, **self.config.model_dump(mode="json"), **trusted}


@dataclass(frozen=True)
class Trusted:
    """Images that a detector trusts although they may be other, or worse, than it thinks."""

    dataset: Method | None
    """Their data set (its training part); none: the clean part of the cell's."""
    poisoned: float
    """Share of them that wears the attack's trigger."""

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {"dataset": self.dataset.describe() if self.dataset is not None else None, "poisoned": self.poisoned}


def names(role: Role) -> tuple[str, ...]:
    """The built-in methods of a role, sorted."""
    return tuple(sorted(path.stem for path in _folder(role).glob("*.py") if not path.stem.startswith("_")))


def summary(role: Role, kind: str) -> str:
    """The first line of a method's docstring, read without importing it."""
    doc = ast.get_docstring(ast.parse((_folder(role) / f"{kind}.py").read_text(encoding="utf-8"))) or ""
    return doc.split("\n")[0]


@cache
def method_class(role: Role, kind: str) -> "type[Config]":
    """The Config class of a method. Raises UserError for an unknown kind, with the nearest name."""
    module = _import(role, kind)
    from raybd.types import Config

    found = [
        value
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Config) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    if len(found) != 1:
        raise UserError(
            f"{module.__name__}: expected one public Config class, found {len(found)}",
            "Keep one method in a file; helpers start with an underscore.",
        )
    return found[0]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for an error message: ' Did you mean ...?', or the whole list when nothing is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."


def _folder(role: Role) -> Path:
    return Path(__file__).parent / role


def _import(role: Role, kind: str) -> ModuleType:
    if kind in names(role):
        return importlib.import_module(f"raybd.{role}.{kind}")
    if "." not in kind:
        raise UserError(f"unknown {role[:-1]} {kind!r}", did_you_mean(kind, names(role)))
    try:
        return importlib.import_module(kind)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{role[:-1]} {kind!r}: {error}", "A dotted kind is a Python module: put its folder on PYTHONPATH."
        ) from error
