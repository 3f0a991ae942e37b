"""Plants one fault at a time into a copy of the tree and runs the tests that should notice it.

Each run of the tests is a fork of a process that has loaded the libraries, and nothing of raybd.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import time
import types
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

from tests.mutants.fault import Fault

ROOT = Path(__file__).parents[2]
COPIED = ("raybd", "tests", "benchmarks", "configs", "docs", "cluster")
FILES = ("pyproject.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile")
PACKAGES = ("raybd", "tests", "benchmarks")
SECONDS = 300
"""Time that the tests of one fault may take. What takes longer is not noticed: on a slow machine it
says nothing."""
PAUSE = 0.1
"""Seconds between two looks at the runs."""
FAILED = 1
"""Exit code of pytest where a test failed. Others, such as for no test, are mistakes here."""

State = Literal["killed", "timed out", "survived", "broken"]
STATES: dict[int | None, State] = {None: "timed out", 0: "survived", FAILED: "killed"}


@dataclass(frozen=True)
class Outcome:
    """What the tests said of one fault."""

    fault: Fault
    state: State
    seconds: float
    said: str
    """The end of pytest's output."""

    @property
    def noticed(self) -> bool:
        """Whether the tests noticed it."""
        return self.state == "killed"


def load_libraries() -> None:
    """Import what all tests need, once for all runs: that takes longer than most tests."""
    # Before torch, which reads it: several runs share the cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    import hypothesis  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import pydantic  # noqa: F401
    import pytest  # noqa: F401
    import safetensors.torch  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.datasets
    import sklearn.decomposition
    import sklearn.metrics
    import sklearn.mixture  # noqa: F401
    import torch  # noqa: F401
    import torchvision  # noqa: F401


def copied(target: Path) -> Path:
    """Return a copy of the tree."""
    target.mkdir(parents=True)
    for name in COPIED:
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, target / name)
    return target


def run_all(faults: Sequence[Fault], trees: Sequence[Path]) -> Iterator[Outcome]:
    """Yield what became of each fault, one at a time in each copy of the tree."""
    waiting = list(faults)
    running: dict[Path, _Planted] = {}
    while waiting or running:
        for tree in trees:
            if waiting and tree not in running:
                running[tree] = _Planted(waiting.pop(0), tree)
        time.sleep(PAUSE)
        for tree, planted in list(running.items()):
            if (outcome := planted.outcome()) is not None:
                del running[tree]
                yield outcome


def broken_before(faults: Sequence[Fault], tree: Path) -> str | None:
    """Return what pytest says if a named test fails without any fault; None if all pass."""
    # Each once, in one run: what they share is made once.
    words = tuple(dict.fromkeys(word for fault in faults for word in fault.tests))
    run = _Run(words, tree)
    while (code := run.exit_code(SECONDS * 10)) == "running":
        time.sleep(PAUSE)
    return None if code == 0 else run.said()


class _Planted:
    """A fault in a copy of the tree, and the tests that run there."""

    def __init__(self, fault: Fault, tree: Path) -> None:
        self.fault = fault
        self.path = tree / fault.file
        self.right = self.path.read_text(encoding="utf-8")
        self.path.write_text(fault.planted(self.right), encoding="utf-8")
        self.run = _Run(fault.tests, tree)

    def outcome(self) -> Outcome | None:
        """Return what became of it, and take it out; None while the tests run."""
        code = self.run.exit_code(SECONDS)
        if code == "running":
            return None
        self.path.write_text(self.right, encoding="utf-8")
        state = STATES.get(code, "broken")
        return Outcome(self.fault, state, time.monotonic() - self.run.began, self.run.said())


class _Run:
    """A run of pytest in a process of its own."""

    def __init__(self, words: Sequence[str], tree: Path) -> None:
        self.began = time.monotonic()
        self._log = tree / "pytest.log"
        self._process: BaseProcess = multiprocessing.get_context("fork").Process(
            target=_run_tests, args=(words, tree, self._log)
        )
        self._process.start()

    def exit_code(self, seconds: float) -> int | Literal["running"] | None:
        """Return pytest's exit code; None if it takes longer than this, and is ended."""
        self._process.join(timeout=0)
        code = self._process.exitcode
        if code is None and time.monotonic() - self.began < seconds:
            return "running"
        assert self._process.pid is not None
        # The processes that the tests have started are in its group, and may have been left behind.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()
        return code

    def said(self) -> str:
        """Return the end of what pytest has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-2000:]


def _run_tests(words: Sequence[str], tree: Path, log: Path) -> None:
    """Run pytest in a copy of the tree, in this process, and exit with its code."""
    import pytest

    os.setsid()
    with log.open("w", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(tree)
    # The copy, and not what this process came from.
    for name in list(sys.modules):
        if name.split(".")[0] in PACKAGES:
            del sys.modules[name]
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.path[:] = [str(tree), *(path for path in sys.path if path not in ("", str(ROOT)))]

    data = os.environ.get("RAYBD_DATA", str(ROOT.parent / "shared" / "data"))
    if Path(data).is_dir():
        os.environ["RAYBD_DATA"] = data
    os.environ["PYTHONPATH"] = str(tree)
    # A compiled file is taken for that of a source of the same size and second.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    sys.exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *words])))
