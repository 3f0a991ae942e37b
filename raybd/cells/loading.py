"""Victims and poison overlays as artefacts of the store."""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from raybd.canaries.canaries import VALIDATION
from raybd.cells.stage import Stage, VictimStage
from raybd.reading.classes import MAX_CLASSES
from raybd.results.artifacts import Artifact
from raybd.results.store import Store
from raybd.types.data import Dataset, Poisoned, stamped
from raybd.types.methods import Attack, Repair, Trainer, TrainingDefense
from raybd.types.models import Network, Victim

VICTIM_PREFIX = "victim."
"""The names of a victim's weights in an artefact begin with this."""
STATE_PREFIX = "state."
"""The names of a trigger's tensors in an artefact begin with this."""
MAX_SIDE = 4096
"""Side of the images, in pixels, that a stored victim may be built for."""


def load_victim(stage: VictimStage, store: Store) -> Victim:
    """Return the victim that a stage handed out.

    Raises Foreign if its weights are not those of its network.
    """
    artifact = store.load(stage.name, stage.key)
    weights = _named(artifact.tensors, VICTIM_PREFIX)
    num_classes = _number(artifact, "num_classes", MAX_CLASSES)
    image_size = _number(artifact, "image_size", MAX_SIDE)

    # The weights come from the store, not from where the training began.
    network = cast(Network, stage.victim_network.config).without_pretraining()
    # `build` draws weights that are replaced: loading must not change what is drawn after it.
    with torch.random.fork_rng(devices=[]):
        encoder, head = network.build(num_classes, image_size)
        has_head = any(name.startswith("head.") for name in weights)
        # The normalisation is part of the weights.
        victim = Victim(encoder, head if has_head else None, torch.zeros(3), torch.ones(3))
        # Before the weights: each of them needs a module to go to.
        for method in stage.reshapers:
            if isinstance(method, Trainer | TrainingDefense | Repair):
                method.reshape(victim, weights)

    if misfit := _misfit(victim.state_dict(), weights):
        raise artifact.refuse(misfit)
    victim.load_state_dict(weights)
    return victim.eval()


def load_poisoned(stage: Stage, store: Store) -> Poisoned:
    """Return an overlay (poison, or canaries over poison), with the trigger of the attack.

    Raises Foreign if it is no overlay.
    """
    attack = cast(Attack, stage.poison_stage.method.config)
    artifact = store.load(stage.name, stage.key)
    _check_overlay(artifact)
    tensors = artifact.tensors
    state = _named(tensors, STATE_PREFIX)
    return Poisoned(
        index_M=tensors["index_M"],
        x_MCHW=tensors["x_MCHW"],
        y_M=tensors["y_M"],
        role_M=tensors["role_M"],
        trigger=partial(stamped, attack.stamp_toward, state=state),
        labels=attack.label_map,
        state=state,
        choose_test=partial(attack.choose_test, state=state) if attack.chooses_test else None,
    )


def overlay_tensors(poisoned: Poisoned) -> dict[str, Tensor]:
    """Return an overlay as the tensors of an artefact."""
    return {
        "index_M": poisoned.index_M,
        "x_MCHW": poisoned.x_MCHW,
        "y_M": poisoned.y_M,
        "role_M": poisoned.role_M,
        **{f"{STATE_PREFIX}{name}": tensor for name, tensor in poisoned.state.items()},
    }


def victim_tensors(victim: Victim) -> dict[str, Tensor]:
    """Return the weights of a victim as the tensors of an artefact."""
    state = victim.state_dict()
    # The artefact of an attack or a defense holds other tensors, too.
    return {f"{VICTIM_PREFIX}{name}": tensor.detach().cpu() for name, tensor in state.items()}


def shape_of(dataset: Dataset) -> dict[str, Any]:
    """Return what a network has to be built for, as facts of an artefact."""
    # Networks ask for the shorter side: it is the one that their strides could use up.
    shorter = min(dataset.train.x_NCHW.shape[-2:])
    return {
        "num_classes": dataset.num_classes,
        "image_size": shorter,
        "class_names": list(dataset.class_names),
    }


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with the prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _number(artifact: Artifact, name: str, most: int) -> int:
    """Return a fact of an artefact that is a number from 1 to `most`. Raises Foreign."""
    found = artifact.manifest.get(name)
    if type(found) is not int or not 1 <= found <= most:
        raise artifact.refuse(f"{name} can't be {found!r}")
    return found


def _misfit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """Return how tensors differ from those of a network in names, shapes or kinds of numbers."""
    if missing := sorted(wanted.keys() - found.keys()):
        return f"it lacks the weights {missing[0]!r} of its network"
    if unknown := sorted(found.keys() - wanted.keys()):
        return f"its network has no weights {unknown[0]!r}"
    for name, tensor in wanted.items():
        # A number is stored with or without a dimension of its own.
        shapes = [list(x.shape) for x in (found[name], tensor)]
        if shapes[0] != shapes[1]:
            return f"weights {name!r} have the shape {shapes[0][:8]} instead of {shapes[1]}"
        if found[name].is_floating_point() != tensor.is_floating_point():
            return f"weights {name!r} are {found[name].dtype} instead of {tensor.dtype}"
    return None


def _check_overlay(artifact: Artifact) -> None:
    """Raise Foreign if an artefact is no overlay."""
    tensors = artifact.tensors
    index_M = tensors["index_M"]
    kinds = {"index_M": torch.int64, "x_MCHW": torch.uint8, "y_M": torch.int64}
    dims = {"index_M": 1, "x_MCHW": 4, "y_M": 1, "role_M": 1}
    for name, dim in dims.items():
        tensor = tensors[name]
        if tensor.dim() != dim or len(tensor) != len(index_M):
            raise artifact.refuse(f"{name} can't have the shape {list(tensor.shape)[:8]}")
        if tensor.dtype != kinds.get(name, tensor.dtype):
            raise artifact.refuse(f"{name} can't be {tensor.dtype}")

    role_M = tensors["role_M"]
    low, high = (int(x) for x in torch.aminmax(role_M)) if len(role_M) else (0, 0)
    # Canaries have roles above those of samples.
    if low < 0 or high > VALIDATION:
        raise artifact.refuse(f"roles can't be {low} to {high}")
    if len(index_M) and int(index_M.min()) < 0:
        raise artifact.refuse(f"index_M can't be {int(index_M.min())}")
