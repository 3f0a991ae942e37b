"""Victims and poison overlays as artefacts of the store."""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from raybd.cells.stage import Stage, VictimStage
from raybd.results.store import Store
from raybd.types.data import Dataset, Poisoned, stamped
from raybd.types.methods import Attack, Repair, Trainer, TrainingDefense
from raybd.types.models import Network, Victim

VICTIM_PREFIX = "victim."
"""The names of a victim's weights in an artefact begin with this."""
STATE_PREFIX = "state."
"""The names of a trigger's tensors in an artefact begin with this."""


def load_victim(stage: VictimStage, store: Store) -> Victim:
    """Return the victim that a stage handed out."""
    artifact = store.load(stage.name, stage.key)
    weights = _named(artifact.tensors, VICTIM_PREFIX)

    # The weights come from the store, not from where the training began.
    network = cast(Network, stage.victim_network.config).without_pretraining()
    # `build` draws weights that are replaced: loading must not change what is drawn after it.
    with torch.random.fork_rng(devices=[]):
        encoder, head = network.build(
            artifact.manifest["num_classes"], artifact.manifest["image_size"]
        )
        has_head = any(name.startswith("head.") for name in weights)
        # The normalisation is part of the weights.
        victim = Victim(encoder, head if has_head else None, torch.zeros(3), torch.ones(3))
        # Before the weights: each of them needs a module to go to.
        for method in stage.reshapers:
            if isinstance(method, Trainer | TrainingDefense | Repair):
                method.reshape(victim, weights)

    victim.load_state_dict(weights)
    return victim.eval()


def load_poisoned(stage: Stage, store: Store) -> Poisoned:
    """Return an overlay (poison, or canaries over poison), with the trigger of the attack."""
    attack = cast(Attack, stage.poison_stage.method.config)
    tensors = store.load(stage.name, stage.key).tensors
    state = _named(tensors, STATE_PREFIX)
    return Poisoned(
        index_M=tensors["index_M"],
        x_MCHW=tensors["x_MCHW"],
        y_M=tensors["y_M"],
        role_M=tensors["role_M"],
        trigger=partial(stamped, attack.stamp_toward, state=state),
        labels=attack.label_map,
        state=state,
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
    return {"num_classes": dataset.num_classes, "image_size": shorter}


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with the prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
