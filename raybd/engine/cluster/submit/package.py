"""The folder that a job runs in: raybd, the config, and the user's own methods."""

import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from raybd.engine.cluster.submit.request import JobRequest
from raybd.types.errors import UserError

LIMIT_MB = 20.0
"""Default for the largest package that is submitted."""
RAYBD_FOLDER = Path(__file__).parents[3]
SHOWN_FILES = 5
"""How many of the largest files are named if a package is too large."""


@contextmanager
def job_package(request: JobRequest, limit_mb: float, say: Callable[[str], None]) -> Iterator[Path]:
    """Make a folder with the code and the config of a job; remove it at the end.

    Raises UserError that names the largest files if it is larger than the limit.
    """
    sources = {
        Path("raybd"): RAYBD_FOLDER,
        **_module_sources(request.modules),
        Path(request.config.name): request.config,
    }
    files = {
        target: path for top, source in sources.items() for target, path in _files(top, source)
    }
    sizes_mb = {target: path.stat().st_size / 1e6 for target, path in files.items()}
    total_mb = sum(sizes_mb.values())
    # Checked before a file is copied: the folder of a user's method may hold data sets.
    if total_mb > limit_mb:
        largest = sorted(sizes_mb, key=lambda target: -sizes_mb[target])[:SHOWN_FILES]
        named = ", ".join(f"{target} ({sizes_mb[target]:.1f} MB)" for target in largest)
        raise UserError(
            f"the package is {total_mb:.1f} MB, more than {limit_mb:g} MB; "
            f"its largest files: {named}",
            "Move files that are not code out of these folders, or raise --limit-mb.",
        )

    say(f"package: {total_mb:.1f} MB in {len(files)} files")
    with tempfile.TemporaryDirectory(prefix="raybd-") as folder:
        for target, path in files.items():
            copy = Path(folder) / target
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        yield Path(folder)


def _module_sources(modules: Sequence[str]) -> dict[Path, Path]:
    """Return the place of each module in the package, and its file or folder here."""
    found = {}
    for module in modules:
        spec = importlib.util.find_spec(module)
        # A package goes in whole, as its modules import each other.
        if spec is not None and spec.submodule_search_locations:
            found[Path(module)] = Path(next(iter(spec.submodule_search_locations)))
        elif spec is not None and spec.origin:
            found[Path(f"{module}.py")] = Path(spec.origin)
    return found


def _files(top: Path, source: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the place in the package, and the path here, of each file of a source."""
    if source.is_file():
        yield top, source
        return
    for path in sorted(source.rglob("*")):
        # Compiled files change without the code, and Ray uploads a package that changed again.
        if path.is_file() and "__pycache__" not in path.parts:
            yield top / path.relative_to(source), path
