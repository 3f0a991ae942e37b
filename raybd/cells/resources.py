"""How stages run: workers, CPUs, GPUs, time. No part of what they compute."""

from typing import Literal

from pydantic import Field

from raybd.types.config import Config


class Resources(Config):
    """How a stage runs; no part of what it computes."""

    workers: int = Field(1, ge=1, le=10_000)
    """Processes that share each stage; 2 or more: Ray Train."""
    cpus_per_worker: float = Field(1, ge=1)
    """CPUs, and torch threads, of each."""
    gpus_per_worker: float | None = Field(None, ge=0)
    """GPUs of each, fractions allowed; unset: one if the cluster has any."""
    checkpoint_seconds: float = Field(30, ge=0)
    """Seconds between checkpoints: what a dead worker loses, plus its current epoch."""
    time_limit: float | None = Field(None, gt=0)
    """Seconds after which a running stage is stopped and its cells fail; unset: none."""
    compile: bool = False
    """Train through torch.compile if one worker has the stage: for long trainings on a GPU. It does
    not pay on a CPU."""


class AllResources(Resources):
    """Resources for all roles, and the exceptions for single roles."""

    trainers: Resources | None = None
    """For victims, training defenses and attacks that train, and retraining after removal."""
    detectors: Resources | None = None
    """For scoring."""
    scanners: Resources | None = None
    """For scans."""
    repairs: Resources | None = None
    """For repairs."""
    patience: float = Field(20, ge=0)
    """Seconds to wait for nodes if a stage fits on none; an autoscaler is asked meanwhile."""

    def of(
        self, role: Literal["trainers", "detectors", "scanners", "repairs", "data"]
    ) -> Resources:
        """Return the resources of a role."""
        # No GPU for what only changes images: it would keep one from a training.
        if role == "data":
            return Resources(gpus_per_worker=0, time_limit=self.time_limit)
        special: Resources | None = dict(self)[role]
        if special is not None:
            return special
        return Resources(**{name: dict(self)[name] for name in Resources.model_fields})
