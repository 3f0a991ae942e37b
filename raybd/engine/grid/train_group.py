"""A stage as a Ray Train (V2) TorchTrainer: the same stage function in every worker of a group, with DDP."""

import uuid
from typing import Any

import ray
import torch
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from raybd.cells import run as stages
from raybd.cells.resources import Resources
from raybd.cells.stage import Stage
from raybd.distributed import group
from raybd.engine.grid.datasets import unpack
from raybd.engine.grid.status_actor import stage_began
from raybd.results.store import Store

_RESTARTS = 2
_SCRATCH = "train"
"""Where Ray Train keeps its own state while a group runs: every node must see it, and every node sees the store."""
_TIMEOUT_SECONDS = 600


def train_group(
    stage: Stage,
    store: Store,
    data: Any,
    resources: Resources,
    gpus: float,
    status: Any,
    watched: bool,
) -> None:
    """Run a stage on a group of workers and wait. A dead worker restarts the group, which goes on from the stage's checkpoint."""
    name = f"{stage.name}-{stage.key}-{uuid.uuid4().hex[:8]}"
    # Behind a reference: what is in the config itself is unpacked by Train's controller, too, before it starts the workers.
    work = ray.put((stage, store, data, resources, status, watched))
    try:
        TorchTrainer(
            _member,
            train_loop_config={"work": work},
            torch_config=TorchConfig(
                backend="nccl" if gpus else "gloo", timeout_s=_TIMEOUT_SECONDS
            ),
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
                storage_path=store.at(_SCRATCH),
                storage_filesystem=None
                if store.local
                else PyFileSystem(FSSpecHandler(store.filesystem)),
                failure_config=FailureConfig(max_failures=_RESTARTS),
                checkpoint_config=CheckpointConfig(num_to_keep=1),
            ),
        ).fit()
    finally:
        store.remove(f"{_SCRATCH}/{name}")


def _member(config: dict[str, Any]) -> None:
    """What each worker runs; the stage's own checkpoints are in the store, so nothing is reported to Train."""
    stage, store, data, resources, status, watched = ray.get(config["work"])
    group.use_threads(resources.cpus_per_worker)
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if group.rank() == 0:
        stage_began(status, stage.key)
    dataset = unpack(ray.get(data[0]))
    report = lambda facts: status.post.remote(stage.key, dict(facts))
    stages.run_stage(stage, store, dataset, resources, report, watched)
