"""A stage in a group of workers: a Ray Train (V2) TorchTrainer, whose workers all run the stage."""

import uuid
from contextlib import suppress
from typing import Any

import ray
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from raybd.cells import run as stages
from raybd.cells.resources import Resources
from raybd.cells.stage import Stage
from raybd.distributed import group
from raybd.engine.grid.datasets import unpack
from raybd.engine.grid.failures import process_died, stage_error
from raybd.engine.grid.status_actor import report_start, reporter
from raybd.engine.ray_storage import ray_filesystem
from raybd.results.failures import StoreUnusable
from raybd.results.store import Store
from raybd.types.kept import Kept

STATE_FOLDER = "train"
"""Folder of the store for Ray Train's own state while a group runs: all nodes must see it."""
COLLECTIVE_SECONDS = 600
"""How long a worker waits for the others before it gives up."""


def train_group(
    stage: Stage,
    store: Store,
    packed: list[Any],
    resources: Resources,
    gpus: float,
    status_actor: Any,
    watched: bool,
    kept: Kept,
) -> None:
    """Run a stage in a group of workers, and wait for it.

    If a worker dies, the group is started again and continues from the stage's checkpoint. Raises
    the error of the stage.
    """
    # Unique: under a name that was used before, Train would take up the state of that run.
    name = f"{stage.name}-{stage.key}-{uuid.uuid4().hex[:8]}"
    # By reference: Train's controller unpickles the config before it starts the workers.
    work = ray.put((stage, store, packed, resources, status_actor, watched, kept))
    trainer = TorchTrainer(
        _run_member,
        train_loop_config={"work": work},
        # Ray's half hour is long where a worker that hangs holds up the others.
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=COLLECTIVE_SECONDS),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=gpus > 0,
            resources_per_worker={
                "CPU": resources.cpus_per_worker,
                **({"GPU": gpus} if gpus else {}),
            },
        ),
        run_config=RunConfig(
            name=name,
            storage_path=store.at(STATE_FOLDER),
            storage_filesystem=ray_filesystem(store),
            failure_config=FailureConfig(max_failures=stage.crash_retries),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        raise _member_error(error, stage) from error
    finally:
        # Nobody reads it later: the stage's checkpoints are elsewhere in the store. An error of the
        # stage says more than one of this.
        with suppress(StoreUnusable):
            store.remove(f"{STATE_FOLDER}/{name}")


def _member_error(error: WorkerGroupError, stage: Stage) -> BaseException:
    """Return why a group failed: the error that the stage raised, or StageLost."""
    failures = [stage_error(failure, stage) for failure in error.worker_failures.values()]
    # The first worker writes, and the others fail since they wait for it.
    for failure in failures:
        if isinstance(failure, StoreUnusable):
            return failure
    # A failure of Ray's own says that a worker died; what the others raise follows from that.
    if any(type(failure).__module__.startswith("ray.") for failure in failures):
        return process_died(stage)
    return failures[0] if failures else error


def _run_member(config: dict[str, Any]) -> None:
    """Run the stage in one worker. Its checkpoints are in the store, so Train is told nothing."""
    stage, store, packed, resources, status_actor, watched, kept = ray.get(config["work"])
    group.use_threads(resources.cpus_per_worker)

    device = get_device()
    if device.type == "cuda":
        # `group.device` returns torch's current device, which is the first one until it is set.
        torch.cuda.set_device(device)
    # One report for a group: it has one time limit.
    if group.rank() == 0:
        report_start(status_actor, stage.key)

    # Here, not in the waiting task: the arrays are shared on the node of this worker.
    dataset = unpack(ray.get(packed[0]))
    report = reporter(status_actor, stage.key)
    stages.run_stage(stage, store, dataset, resources, report, watched, kept)
