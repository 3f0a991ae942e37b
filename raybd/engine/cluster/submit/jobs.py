"""Submitting jobs to a cluster and following them, by the address of its dashboard."""

import asyncio
import logging
import os
import re
import shlex
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from ray.job_submission import JobSubmissionClient

from raybd.engine.cluster.connect import use_local_token
from raybd.engine.cluster.submit.exit_code import UNUSABLE, exit_code
from raybd.engine.cluster.submit.job_log import JobLog
from raybd.engine.cluster.submit.package import job_package
from raybd.engine.cluster.submit.request import JobRequest
from raybd.types.errors import UserError

CONNECT_SECONDS = 10.0
"""How long an address may take to accept a connection."""
STARTUP_SECONDS = 60.0
"""How long a head may take to accept jobs: its dashboard answers a little earlier."""
SILENCE_SECONDS = 60.0
"""A connection that sends nothing for this long may be lost, and is replaced."""
UNREACHABLE_SECONDS = 600.0
"""How long the cluster may be unreachable until a job is no longer followed."""
FIRST_RETRY_SECONDS = 1.0
"""Pause before the first new connection; each further pause is twice as long."""
MAX_RETRY_SECONDS = 30.0
"""Longest pause before a new connection."""
POLL_SECONDS = 0.2
"""Pause between the end of a log and the next look at the status of its job."""
# Ray's client raises RuntimeError for an answer that is an error, and for a log that breaks off.
CONNECTION_ERRORS = (OSError, RuntimeError, aiohttp.ClientError)
# They report each upload at level INFO, in between the messages of raybd.
NOISY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)

Say = Callable[[str], None]
"""Prints a message about the job on stderr."""


class Jobs:
    """The jobs of a cluster.

    Raises UserError (exit code 3) if the address is not that of a dashboard that takes jobs.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        # Ray's client waits without a limit.
        _check_address(self.address)
        use_local_token()
        # Ray prefers RAY_ADDRESS to the client's argument, but not to this.
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address
        for name in NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            self.client = JobSubmissionClient(self.address)
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            raise _unreachable(self.address, reason) from error

    def submit(self, request: JobRequest, limit_mb: float, say: Say) -> str:
        """Submit a job, unless it runs already, and return its id."""
        while True:
            job, running = self._find(request.id)
            if running:
                say(
                    f"job {job} with this experiment and store runs already; joined it, nothing "
                    "was submitted"
                )
                return job
            with job_package(request, limit_mb, say) as folder:
                runtime_env = {"working_dir": str(folder), "env_vars": request.environment}
                if self._submit(job, request.entrypoint, runtime_env):
                    say(f"job {job} was submitted")
                    return job

    def follow(self, job: str, say: Say, show: Say) -> int:
        """Show the log of a job until it ends, and return the exit code of its run.

        A lost connection is replaced. Raises UserError (exit code 3) if the cluster is out of
        reach for UNREACHABLE_SECONDS, or does not know the job.
        """
        log = JobLog(show)
        pause = FIRST_RETRY_SECONDS
        reached_at = time.monotonic()
        while True:
            try:
                # The status first: the log of a job that has ended is complete.
                info = self._info(job)
                asyncio.run(self._receive_log(job, log))
                if info.status.is_terminal():
                    return exit_code(info, say)
                pause = FIRST_RETRY_SECONDS
                reached_at = time.monotonic()
                time.sleep(POLL_SECONDS)
            except CONNECTION_ERRORS as error:
                if time.monotonic() - reached_at > UNREACHABLE_SECONDS:
                    reason = f"{error}; the job may go on: {self.follow_command(job)}"
                    raise _unreachable(self.address, reason) from error
                say(f"connection lost ({type(error).__name__}); trying again in {pause:.0f} s")
                time.sleep(pause)
                pause = min(2 * pause, MAX_RETRY_SECONDS)

    def follow_command(self, job: str) -> str:
        """Return the command that follows a job."""
        return shlex.join(["raybd", "submit", "--follow", job, "--address", self.address])

    def stop_command(self, job: str) -> str:
        """Return the command that stops a job."""
        return shlex.join(["ray", "job", "stop", "--address", self.address, job])

    def _find(self, request_id: str) -> tuple[str, bool]:
        """Return the job of a request that still runs, and True; or the next free id, and False."""
        ours = re.compile(re.escape(request_id) + r"(-\d+)?")
        statuses = {job.submission_id or "": job.status for job in self.client.list_jobs()}
        known = {job: status for job, status in statuses.items() if ours.fullmatch(job)}
        # A job is joined rather than run twice: both would compute the same stages.
        for job, status in known.items():
            if not status.is_terminal():
                return job, True
        # Ray never takes an id twice, not even after the job has ended.
        ids = [request_id, *(f"{request_id}-{number}" for number in range(2, len(known) + 2))]
        return next(job for job in ids if job not in known), False

    def _submit(self, job: str, entrypoint: str, runtime_env: Mapping[str, Any]) -> bool:
        """Submit a job; return False if another process has submitted it at the same time."""
        deadline = time.monotonic() + STARTUP_SECONDS
        while True:
            try:
                self.client.submit_job(
                    entrypoint=entrypoint, submission_id=job, runtime_env=dict(runtime_env)
                )
                return True
            except RuntimeError as error:
                # Ray has no error types of its own for these.
                if "already exists" in str(error):
                    return False
                # A head that was just started answers before it can take jobs.
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise UserError(
                        f"the cluster at {self.address} refused the job: "
                        f"{' '.join(str(error).split())[:500]}",
                        "Look at `ray status` on the head; a head that was just started takes "
                        "jobs after some seconds.",
                        exit_code=UNUSABLE,
                    ) from error
                time.sleep(1)

    def _info(self, job: str) -> Any:
        """Return Ray's info about a job."""
        try:
            return self.client.get_job_info(job)
        except RuntimeError as error:
            if "does not exist" not in str(error):
                raise
            raise UserError(
                f"the cluster at {self.address} knows no job {job!r}",
                "`ray job list` names its jobs. A head that was restarted has forgotten its jobs: "
                "submit again, nothing is lost.",
                exit_code=UNUSABLE,
            ) from error

    async def _receive_log(self, job: str, log: JobLog) -> None:
        """Receive the log of a job until it ends, or until nothing comes for SILENCE_SECONDS."""
        log.reconnected()
        stream: Any = self.client.tail_job_logs(job)
        try:
            while True:
                text = await asyncio.wait_for(anext(stream, None), SILENCE_SECONDS)
                if text is None:
                    return
                log.receive(text)
        # Silence is no error: the caller asks for the status, and connects again.
        except TimeoutError:
            return
        finally:
            # Else the connection stays open until the garbage collector finds it.
            await stream.aclose()


def _check_address(address: str) -> None:
    """Raise UserError if an address is not that of a dashboard, or accepts no connection."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:  # the port is not a number
        parts = urlsplit("")
        port = None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"address {address!r} is not that of a dashboard",
            "Give the dashboard of the head, like --address http://127.0.0.1:8265.",
            exit_code=UNUSABLE,
        )
    # A URL may leave out the port of its scheme, and a socket needs it.
    port = port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str, reason: str) -> UserError:
    return UserError(
        f"the dashboard at {address} does not take jobs: {reason}",
        "Check the address, the tunnel and the token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH); "
        "the port of the dashboard is 8265.",
        exit_code=UNUSABLE,
    )
