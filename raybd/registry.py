"""Finds methods by name: a kind is the name of its file (or folder) anywhere below its role.

`attacks: [{kind: badnets}]` is raybd/attacks/data/badnets.py; `detectors: [{kind: asset}]` is the
folder raybd/detectors/asset/. Each holds one public Config class. A kind with a dot is a module of
the user's own. `torchvision:resnet50` is the kind `torchvision`, which stands for many models, and
the one that is meant.
"""

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

from raybd.source_hash import source_hash
from raybd.types.errors import UserError

if TYPE_CHECKING:
    from raybd.types.config import Config, Precision

Role = Literal[
    "datasets",
    "networks",
    "attacks",
    "trainers",
    "training_defenses",
    "detectors",
    "scanners",
    "repairs",
    "analyses",
]
METHOD_ROLES: tuple[Role, ...] = (
    "datasets",
    "networks",
    "attacks",
    "trainers",
    "training_defenses",
    "detectors",
    "scanners",
    "repairs",
    "analyses",
)
SOURCE_FIELD = "source_sha256"
"""The hash of its source in the description of a method of the user's own."""
PRECISION_FIELD = "pinned_precision"
"""The precision that the experiment pins, in the description of a method."""
_ROOT = Path(__file__).parent


@dataclass(frozen=True)
class Method:
    """One method with its hyperparameters, as an experiment names it."""

    role: Role
    kind: str
    config: "Config"
    name: str
    """Name in the tables: the kind, unless the experiment gives another one."""
    trusted: "Trusted | None" = None
    """For detectors: the source of the trusted images, if not the clean part of the data set."""
    side_data: "Method | None" = None
    """For attacks that read another data set: that data set."""
    scan: "Method | None" = None
    """For repairs that stand on a scan: the scanner."""
    then: tuple[str, ...] = ()
    """For repairs and training defenses: the names of the detectors and scanners of the experiment
    that look at their victim, too. They change nothing of it, and are not described."""
    encoder: "Method | None" = None
    """For training defenses that start from an encoder of the poisoned set: its trainer."""
    oracle: bool = False
    """Whether the experiment says that the fields hold knowledge that a defender lacks."""
    precision: "Precision | None" = None
    """The precision that the experiment pins for all its methods, if it does."""

    def describe(self) -> dict[str, Any]:
        """Return kind, version and fields as JSON, without paths (fields marked `exclude`)."""
        # The version is no field, but a new one must change the keys of stages.
        described: dict[str, Any] = {"kind": self.kind, "version": type(self.config).version}
        described |= self.config.model_dump(mode="json")
        # A method of the user's own has no version that counts its changes.
        source = source_hash(self.kind) if "." in self.kind else None
        if source is not None:
            described[SOURCE_FIELD] = source
        if self.precision is not None:
            described[PRECISION_FIELD] = self.precision
        if self.trusted is not None:
            described["trusted"] = self.trusted.describe()
        if self.side_data is not None:
            described["side_data"] = self.side_data.describe()
        if self.scan is not None:
            described["scan"] = self.scan.describe()
        if self.encoder is not None:
            described["encoder"] = self.encoder.describe()
        return described


@dataclass(frozen=True)
class Trusted:
    """The images that a detector trusts, although they may be others than it assumes."""

    dataset: Method | None
    """Their data set (its training part); None: the clean part of the cell's data set."""
    poisoned: float
    """Share of them that wears the attack's trigger."""
    data: str | None = None
    """Hash of the content of their data set, which the plan opens."""

    def describe(self) -> dict[str, Any]:
        """Return it as JSON."""
        dataset = self.dataset.describe() if self.dataset is not None else None
        data = {"data": self.data} if self.data is not None else {}
        return {"dataset": dataset, "poisoned": self.poisoned, **data}


def names(role: Role) -> tuple[str, ...]:
    """Return the built-in methods of a role, sorted."""
    return tuple(sorted(_files(role)))


def singular(role: Role) -> str:
    """Return the name of one method of a role, like `repair` for `repairs`."""
    if role == "analyses":
        return "analysis"
    return role.removesuffix("s").replace("_", " ")


def summary(role: Role, kind: str) -> str:
    """Return the first line of a method's docstring, without importing the method."""
    # A list of methods must not load torch, which they import.
    return _docstring(_files(role)[kind]).split("\n")[0]


@cache
def method_class(role: Role, kind: str) -> "type[Config]":
    """Return the Config class of a method. Raises UserError that names the closest known kind."""
    module = _import(role, kind)
    # Imported late, because a list of methods does without pydantic.
    from raybd.types.config import Config

    found = [
        value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, Config)
        # Not a base class or another method that the module imports.
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]
    if len(found) != 1:
        raise UserError(
            f"{module.__name__}: expected one public Config class, found {len(found)}",
            "Keep one method in a file; the names of helper classes start with an underscore.",
        )
    return found[0]


def role_of(listed: Role, kind: str) -> Role:
    """Return the role of an entry of a list; `trainers` may list training defenses, too."""
    if listed != "trainers":
        return listed
    # The files tell the role of a built-in method, and nothing is imported.
    if "." not in kind:
        return "training_defenses" if kind in names("training_defenses") else "trainers"
    try:
        defends = hasattr(method_class("training_defenses", kind), "defend")
    except UserError:
        return listed  # whoever loads it says what is wrong with it
    return "training_defenses" if defends else "trainers"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint: ' Did you mean ...?', or all known words if none is close."""
    known = sorted(set(known))
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."


@cache
def _files(role: Role) -> dict[str, Path]:
    """Return the file of each built-in method of a role, by kind."""
    return _files_below(_ROOT / role)


def _files_below(folder: Path) -> dict[str, Path]:
    found = {}
    for path in folder.iterdir():
        # Helpers start with an underscore, hidden files of editors and systems with a dot.
        if path.name.startswith(("_", ".")):
            continue
        if path.suffix == ".py":
            found[path.stem] = path
        elif path.is_dir():
            package = path / "__init__.py"
            if _defines_class(package):
                found[path.name] = package
            else:
                found |= _files_below(path)
    return found


def _defines_class(path: Path) -> bool:
    """Whether a folder is a method: its __init__.py defines a class. Others group methods."""
    # Read and not imported, because names are listed before any method is loaded.
    return path.exists() and "\nclass " in path.read_text(encoding="utf-8")


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _import(role: Role, kind: str) -> ModuleType:
    path = _files(role).get(kind)
    if path is not None:
        # A package is imported by its folder, whose file is `__init__.py`.
        parts = path.parent if path.name == "__init__.py" else path.with_suffix("")
        return importlib.import_module(".".join(["raybd", *parts.relative_to(_ROOT).parts]))
    # What is no dotted name, like a path, is no module either.
    if "." not in kind or not all(part.isidentifier() for part in kind.split(".")):
        raise UserError(f"unknown {singular(role)} {kind!r}", did_you_mean(kind, names(role)))
    try:
        return importlib.import_module(kind)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{singular(role)} {kind!r}: {error}",
            "A kind with a dot is a Python module: put it beside the experiment file, or its "
            "folder on PYTHONPATH.",
        ) from error
