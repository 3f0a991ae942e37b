"""What a job shall run, checked before it is submitted."""

import hashlib
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raybd.plan import file as experiment_file
from raybd.plan.own_modules import kinds
from raybd.reading.named import absolute_places
from raybd.results.store import relative_store_error
from raybd.sweeps.file import is_sweep, load_sweep
from raybd.types.errors import UserError


@dataclass(frozen=True)
class JobRequest:
    """An experiment or a sweep to run as a job."""

    command: Literal["run", "sweep"]
    config: Path
    name: str
    """The name of the experiment or sweep."""
    store: str | None
    """None: the RAYBD_STORE of the machines of the cluster."""
    overrides: tuple[str, ...] = ()
    """Values of `--set`."""
    variables: tuple[str, ...] = ()
    """Environment variables that the job gets, besides those whose names begin with RAYBD_."""
    modules: tuple[str, ...] = ()
    """Top-level modules of the user's own methods."""

    @property
    def id(self) -> str:
        """The id of the job: the same for the same config and store, whatever the code."""
        content = json.dumps([self.config.read_text(encoding="utf-8"), self.store, self.overrides])
        return f"raybd-{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"

    @property
    def entrypoint(self) -> str:
        """The shell command that the job runs."""
        store = ["--store", self.store] if self.store else []
        sets = [part for item in self.overrides for part in ("--set", item)]
        words = ["python", "-m", "raybd", self.command, self.config.name, *store, *sets]
        return shlex.join(words)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of the job. Ray shows their values to all its users.

        Raises UserError if one of `variables` is not set.
        """
        # The store is in the command.
        passed = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("RAYBD_") and name != "RAYBD_STORE"
        }
        for name in self.variables:
            if name not in os.environ:
                raise UserError(f"--env {name}: not set here", f"Set it: export {name}=...")
            passed[name] = os.environ[name]
        # Python would keep back lines that go to a file, and the log is followed live. A job has
        # a working folder of its own.
        return {"PYTHONUNBUFFERED": "1", **passed, **absolute_places()}


def job_request(
    config: Path, store: str | None, overrides: Sequence[str] = (), variables: Sequence[str] = ()
) -> JobRequest:
    """Return the request for a config file, checked as far as this machine can check it.

    Raises UserError for a config that does not load, or a store that the job would lose.
    """
    sweep = is_sweep(config)
    if sweep:
        # The comparison has the held-out attacks, too, whose modules the job needs.
        experiment = load_sweep(config, overrides).comparison({})
    else:
        experiment = experiment_file.load(config, overrides)
    if store and "://" not in store and not Path(store).is_absolute():
        raise relative_store_error(store)

    packages = {kind.split(".")[0] for kind in kinds(experiment.describe()) if "." in kind}
    return JobRequest(
        command="sweep" if sweep else "run",
        config=config,
        name=experiment.name,
        store=store,
        overrides=tuple(overrides),
        variables=tuple(variables),
        # raybd itself is packed in any case.
        modules=tuple(sorted(packages - {"raybd"})),
    )
