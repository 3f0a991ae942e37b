"""The stages that canaries add: planting them over the poison, and the same verdict from further random streams."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from raybd.canaries.canaries import CANARY, Canaries, agreed
from raybd.cells.loading import load_poisoned
from raybd.metrics.classification import predictions
from raybd.plan.graph import Stage, overlay_of, random_stream
from raybd.results.store import Store
from raybd.training.inference import infer
from raybd.types.data import Dataset, Poisoned
from raybd.types.models import Victim

Found = tuple[dict[str, Tensor], dict[str, Any]]


def plant(stage: Stage, store: Store, dataset: Dataset) -> Found:
    """The overlay of the poison, with canaries and untouched trusted images in some rows, whatever stood there."""
    poisoned = load_poisoned(stage.need("poison"), store)
    planted = cast(Canaries, stage.method.config).plant(
        dataset.train, dataset.clean, dataset.num_classes, random_stream("plant", stage.seed)
    )
    stays_M = ~torch.isin(poisoned.index_M, planted.index_M)
    tensors = {
        "index_M": torch.cat([poisoned.index_M[stays_M], planted.index_M]),
        "x_MCHW": torch.cat([poisoned.x_MCHW[stays_M], planted.x_MCHW]),
        "y_M": torch.cat([poisoned.y_M[stays_M], planted.y_M]),
        "role_M": torch.cat([poisoned.role_M[stays_M], planted.role_M]),
        "used_L": planted.used_L,
        **{f"state.{name}": tensor for name, tensor in poisoned.state.items()},
    }
    return tensors, {
        "n_planted": len(planted.index_M),
        "n_trusted_left": len(dataset.clean) - len(planted.used_L),
    }


def without_planted(stage: Stage, store: Store, dataset: Dataset) -> Dataset:
    """The data set without the trusted images that were planted into the training set that a stage stands on."""
    overlay = overlay_of(stage)
    if overlay.name != "plant" or stage.name == "plant":
        return dataset
    left_L = torch.ones(len(dataset.clean), dtype=torch.bool)
    left_L[store.load("plant", overlay.key).tensors["used_L"]] = False
    return replace(dataset, clean=dataset.clean.select(left_L))


def learned(victim: Victim, overlay: Poisoned) -> dict[str, float]:
    """The share of the canaries to which a victim gives the label that they were planted with: no detector can be held against
    triggers that no victim has learned."""
    canaries_M = overlay.role_M == CANARY
    if not canaries_M.any():
        return {}
    predicted_M = predictions(infer(victim, overlay.x_MCHW[canaries_M]))
    return {"canaries_learned": float((predicted_M == overlay.y_M[canaries_M]).double().mean())}


def stability(stage: Stage, store: Store, again: Callable[[Stage, int], Found]) -> Found:
    """What the runs of a detector say together; `again` gives the verdict of a stage from another stream."""
    scored, runs = stage.needs[0], cast(Canaries, stage.method.config).runs
    first = store.load(scored.name, scored.key)
    if "score_N" not in first.tensors:
        return {}, {"facts": {}}
    found = [(first.tensors, first.manifest), *(again(scored, run) for run in range(1, runs))]
    flagged_RN = torch.stack([tensors["score_N"] > tensors["threshold_N"] for tensors, _ in found])
    return {}, {"facts": agreed(flagged_RN, [said["facts"] for _, said in found])}
