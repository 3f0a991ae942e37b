"""`ray job submit`, done right: a small package, a log that survives a lost connection, and the run's own exit code.

The id of a job is a hash of what was asked, so the same command again finds the job that still runs; the store sees to it that a
job that runs again computes only what is missing.
"""

import asyncio
import hashlib
import importlib.util
import json
import logging
import os
import re
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
from ray.job_submission import JobStatus, JobSubmissionClient

from raybd.engine.cluster.connect import offer_token
from raybd.plan import file as experiment_file
from raybd.sweeps.file import is_sweep, load_sweep
from raybd.types.errors import UserError

LIMIT_MB = 20.0
STOPPED = 130
_UNUSABLE = 3
_ANSWER_SECONDS = 10.0
_AGENT_SECONDS = 60.0
"""A head answers a little before it can take jobs."""
_SILENCE_SECONDS = 60.0
"""A connection that says nothing for so long may be dead: it is made anew."""
_PATIENCE_SECONDS = 600.0
"""So long may the cluster be out of reach before we give up."""
_LONGEST_PAUSE = 30.0
_MOMENT = 0.2
_LOST = (OSError, RuntimeError, aiohttp.ClientError)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """A run, or a sweep, that is to be made elsewhere."""

    verb: Literal["run", "sweep"]
    config: Path
    name: str
    store: str | None
    """None: the RAYBD_STORE of the cluster's machines."""
    sets: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    """Names of environment variables to pass, beside those that begin with RAYBD_."""
    modules: tuple[str, ...] = ()
    """Packages of the user's own methods."""

    @property
    def id(self) -> str:
        """The same for the same experiment and store, whatever the code."""
        content = json.dumps([self.config.read_text(encoding="utf-8"), self.store, self.sets])
        return f"raybd-{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"

    @property
    def command(self) -> str:
        """What the job runs."""
        store = ["--store", self.store] if self.store else []
        sets = [part for item in self.sets for part in ("--set", item)]
        return shlex.join(["python", "-m", "raybd", self.verb, self.config.name, *store, *sets])

    @property
    def environment(self) -> dict[str, str]:
        """Data and settings are where this process has them; the store is in the command. Ray shows these values to its users."""
        passed = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("RAYBD_") and name != "RAYBD_STORE"
        }
        for name in self.env:
            if name not in os.environ:
                raise UserError(f"--env {name}: not set here", f"Set it: export {name}=...")
            passed[name] = os.environ[name]
        return {"PYTHONUNBUFFERED": "1", **passed}


def ask(
    config: Path, store: str | None, sets: Sequence[str] = (), env: Sequence[str] = ()
) -> Asked:
    """Check what can be checked here. Raises UserError for a bad config or a store that the job could not keep."""
    verb: Literal["run", "sweep"] = "sweep" if is_sweep(config) else "run"
    experiment = (
        load_sweep(config, sets).comparison({})
        if verb == "sweep"
        else experiment_file.load(config, sets)
    )
    if store and "://" not in store and not Path(store).is_absolute():
        raise UserError(
            f"store {store!r} is relative, and inside a Ray job it would vanish with the job's working folder",
            "Give an absolute path that all nodes share, or a URL: --store /shared/results or --store s3://bucket/results.",
        )
    tops = {kind.split(".")[0] for kind in _kinds(experiment.describe()) if "." in kind}
    return Asked(
        verb,
        config,
        experiment.name,
        store,
        tuple(sets),
        tuple(env),
        tuple(sorted(tops - {"raybd"})),
    )


@contextmanager
def package(asked: Asked, limit_mb: float, say: Say) -> Iterator[Path]:
    """A folder with the code and the config. Raises UserError above the limit, with the largest files."""
    sources = {
        Path("raybd"): Path(__file__).parents[2],
        **_places(asked.modules),
        Path(asked.config.name): asked.config,
    }
    files = {
        target: path for top, source in sources.items() for target, path in _files(top, source)
    }
    sizes = {target: path.stat().st_size for target, path in files.items()}
    total = sum(sizes.values()) / 1e6
    if total > limit_mb:
        largest = sorted(sizes, key=lambda target: -sizes[target])[:5]
        named = ", ".join(f"{target} ({sizes[target] / 1e6:.1f} MB)" for target in largest)
        raise UserError(
            f"the package is {total:.1f} MB, more than {limit_mb:g} MB; its largest files: {named}",
            "Move what is no code out of these folders, or raise --limit-mb.",
        )
    say(f"package: {total:.1f} MB in {len(files)} files")
    with tempfile.TemporaryDirectory(prefix="raybd-") as folder:
        for target, path in files.items():
            place = Path(folder) / target
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        yield Path(folder)


class Jobs:
    """The jobs of one cluster, by the address of its dashboard."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        _check_answers(self.address)
        offer_token()
        os.environ["RAY_API_SERVER_ADDRESS"] = (
            self.address
        )  # Ray prefers RAY_ADDRESS to its own argument
        for name in (
            "ray.dashboard.modules.dashboard_sdk",
            "ray.dashboard.modules.job.sdk",
            "ray._private.runtime_env.packaging",
        ):
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            self.client = JobSubmissionClient(self.address)
        except Exception as error:
            raise _unreachable(
                self.address, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            ) from error

    def submit(self, asked: Asked, limit_mb: float, say: Say) -> str:
        """Submit a run, or find it where it runs already. Returns the id of the job."""
        while True:
            job, runs = self._place(asked.id)
            if runs:
                say(
                    f"job {job} with this experiment and store runs already; joined it, nothing was submitted"
                )
                return job
            with package(asked, limit_mb, say) as folder:
                runtime_env = {"working_dir": str(folder), "env_vars": asked.environment}
                if self._submitted(job, asked.command, runtime_env):
                    say(f"job {job} was submitted")
                    return job

    def follow(self, job: str, say: Say, show: Say) -> int:
        """Show the log of a job until it ends, over as many connections as it takes. Returns the run's own exit code."""
        log, pause, heard = _Log(show), 1.0, time.monotonic()
        while True:
            try:
                info = self._info(job)
                asyncio.run(self._tail(job, log))
                if info.status.is_terminal():
                    return _exit_code(info, say)
                pause, heard = 1.0, time.monotonic()
                time.sleep(_MOMENT)
            except _LOST as error:
                if time.monotonic() - heard > _PATIENCE_SECONDS:
                    raise _unreachable(
                        self.address, f"{error}; the job may go on: {self.to_follow(job)}"
                    ) from error
                say(f"connection lost ({type(error).__name__}); trying again in {pause:.0f} s")
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def to_follow(self, job: str) -> str:
        """The command that reattaches."""
        return shlex.join(["raybd", "submit", "--follow", job, "--address", self.address])

    def to_stop(self, job: str) -> str:
        """The command that stops the job."""
        return shlex.join(["ray", "job", "stop", "--address", self.address, job])

    def _place(self, base: str) -> tuple[str, bool]:
        """The job of this content that still runs, or else the next free id."""
        ours = re.compile(re.escape(base) + r"(-\d+)?")
        jobs = {job.submission_id or "": job.status for job in self.client.list_jobs()}
        known = {job: status for job, status in jobs.items() if ours.fullmatch(job)}
        for job, status in known.items():
            if not status.is_terminal():
                return job, True
        free = [base, *(f"{base}-{number}" for number in range(2, len(known) + 2))]
        return next(job for job in free if job not in known), False

    def _submitted(self, job: str, command: str, runtime_env: Mapping[str, Any]) -> bool:
        """False where somebody else submitted the same in this moment."""
        deadline = time.monotonic() + _AGENT_SECONDS
        while True:
            try:
                self.client.submit_job(
                    entrypoint=command, submission_id=job, runtime_env=dict(runtime_env)
                )
                return True
            except RuntimeError as error:
                if "already exists" in str(error):
                    return False
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise UserError(
                        f"the cluster at {self.address} refused the job: {' '.join(str(error).split())[:500]}",
                        "Look at `ray status` on the head; a head that was just started takes jobs after some seconds.",
                        exit_code=_UNUSABLE,
                    ) from error
                time.sleep(1)

    def _info(self, job: str) -> Any:
        try:
            return self.client.get_job_info(job)
        except RuntimeError as error:
            if "does not exist" not in str(error):
                raise
            raise UserError(
                f"the cluster at {self.address} knows no job {job!r}",
                "`ray job list` names its jobs. A head that was started anew has forgotten them: submit again, nothing is lost.",
                exit_code=_UNUSABLE,
            ) from error

    async def _tail(self, job: str, log: "_Log") -> None:
        """Read the log until it ends or falls silent."""
        log.begin()
        stream: Any = self.client.tail_job_logs(job)
        try:
            while (
                text := await asyncio.wait_for(anext(stream, None), _SILENCE_SECONDS)
            ) is not None:
                log.take(text)
        except TimeoutError:
            return
        finally:
            await stream.aclose()


class _Log:
    """Ray sends a log from its beginning over every new connection; this shows each part once."""

    def __init__(self, show: Say) -> None:
        self._show, self._read, self._shown = show, 0, 0

    def begin(self) -> None:
        """A new connection."""
        self._read = 0

    def take(self, text: str) -> None:
        """What came over the connection."""
        new = text[max(self._shown - self._read, 0) :]
        self._read += len(text)
        self._shown = max(self._shown, self._read)
        if new:
            self._show(new)


def _exit_code(info: Any, say: Say) -> int:
    """The exit code of a job that has ended; a signal is told as a shell does it."""
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED:
        say("the job was stopped; submitting the experiment again goes on where it was")
        return STOPPED
    code: int | None = info.driver_exit_code
    if code is None:
        say(f"the cluster could not run the job: {info.message}")
        return _UNUSABLE
    if code < 0:
        say(f"the job was killed by signal {-code}")
        return 128 - code
    return code or 1


def _places(modules: Sequence[str]) -> dict[Path, Path]:
    """Where each module goes in the package, and where it is."""
    found = {}
    for top in modules:
        spec = importlib.util.find_spec(top)
        if spec is not None and spec.submodule_search_locations:
            found[Path(top)] = Path(next(iter(spec.submodule_search_locations)))
        elif spec is not None and spec.origin:
            found[Path(f"{top}.py")] = Path(spec.origin)
    return found


def _kinds(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("kind"), str):
            yield value["kind"]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _kinds(inner)


def _files(top: Path, source: Path) -> Iterator[tuple[Path, Path]]:
    """Where each file goes, and where it is."""
    if source.is_file():
        yield top, source
        return
    for path in sorted(source.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield top / path.relative_to(source), path


def _check_answers(address: str) -> None:
    """Ask the port first: Ray's client waits without a limit."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise UserError(
            f"address {address!r} is not that of a dashboard",
            "Give the head's dashboard, like --address http://127.0.0.1:8265.",
            exit_code=_UNUSABLE,
        )
    try:
        socket.create_connection(
            (host, port or (443 if parts.scheme == "https" else 80)), timeout=_ANSWER_SECONDS
        ).close()
    except OSError as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str, why: str) -> UserError:
    return UserError(
        f"the dashboard at {address} does not take jobs: {why}",
        "Check the address, the tunnel and the token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH); the dashboard's port is 8265.",
        exit_code=_UNUSABLE,
    )
