"""A hash of the source of a user's own method, for the keys of what it computes.

Methods of raybd have versions. A module of the user's own has its source: that of the module, of
its packages, and of the local modules that these import, directly or not. Local is what lies
neither in the standard library, nor among installed packages, nor in raybd. Imports are read from
the source, so that a module which is imported by a computed name is not seen.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

_INSTALLED = ("site-packages", "dist-packages")


# Once per process: what was imported stays, even if a file is edited meanwhile.
@cache
def source_hash(module: str) -> str | None:
    """Return the hash of a module's source, the same wherever its files lie; None in raybd."""
    own = _top(module)
    if own == "raybd":
        return None
    sources: dict[str, bytes] = {}
    seen: set[str] = set()
    waiting = _with_packages(module)
    while waiting:
        name = waiting.pop()
        if name in seen or not _is_local(_top(name), own):
            continue
        seen.add(name)
        spec = _spec(name)
        if spec is None or spec.origin is None or not Path(spec.origin).is_file():
            continue  # a name that is no module, or a package without a file
        sources[name] = Path(spec.origin).read_bytes()
        if spec.origin.endswith(".py"):
            package = name if spec.submodule_search_locations else name.rpartition(".")[0]
            for imported in _imports(sources[name], package):
                waiting += _with_packages(imported)

    digest = sha256()
    for name, source in sorted(sources.items()):
        digest.update(f"{name}\0{sha256(source).hexdigest()}\n".encode())
    return digest.hexdigest()


def _imports(source: bytes, package: str) -> Iterator[str]:
    """Yield the names that a module of a package imports; some are not modules."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return  # a module that is imported only where it is needed may be broken
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                # One dot is the package itself, each further dot the package around it.
                parts = package.split(".")
                around = ".".join(parts[: len(parts) - node.level + 1])
                base = f"{around}.{base}".rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _with_packages(module: str) -> list[str]:
    """Return a module and the packages around it, whose __init__.py are run before it."""
    parts = module.split(".")
    return [".".join(parts[: length + 1]) for length in range(len(parts))]


@cache
def _is_local(top: str, own: str) -> bool:
    if top == own:
        return True  # even an installed method is the user's own
    if top == "raybd" or top in sys.stdlib_module_names:
        return False
    spec = _spec(top)
    if spec is None:
        return False
    places = [spec.origin or "", *(spec.submodule_search_locations or ())]
    return not any(part in _INSTALLED for place in places for part in Path(place).parts)


def _spec(module: str) -> ModuleSpec | None:
    """Return where a module lies, without importing it or the packages around it."""
    top, *below = module.split(".")
    try:
        spec = find_spec(top)
    except ValueError:
        return None  # a script has no spec
    name = top
    for part in below:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return spec


def _top(module: str) -> str:
    return module.partition(".")[0]
