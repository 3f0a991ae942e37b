"""Victims and poison overlays as artefacts of the store."""

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from raybd.plan.graph import Stage
from raybd.results.store import Store
from raybd.types.data import Dataset, Poisoned, stamped
from raybd.types.methods import Attack
from raybd.types.models import Network, Victim

_VICTIM = "victim."
"""Weights of a model stand in an artefact under names that begin so."""


def load_victim(stage: Stage, store: Store) -> Victim:
    """A trained victim from the store."""
    assert stage.network is not None
    artifact = store.load(stage.name, stage.key)
    weights = {
        name.removeprefix(_VICTIM): t
        for name, t in artifact.tensors.items()
        if name.startswith(_VICTIM)
    }
    config = stage.network.config
    if (
        "pretrained" in type(config).model_fields
    ):  # the weights come from the store, not from where training began
        config = config.model_copy(update={"pretrained": False})
    head: nn.Module | None
    with torch.random.fork_rng(devices=[]):
        encoder, head = cast(Network, config).build(
            artifact.manifest["num_classes"], artifact.manifest["image_size"]
        )
    head_state = {
        name.removeprefix("head."): tensor
        for name, tensor in weights.items()
        if name.startswith("head.")
    }
    head_for = getattr(stage.method.config, "head_for", None)
    if not head_state:
        head = None
    elif head_for is not None:
        head = head_for(head_state)
    victim = Victim(encoder, head, torch.zeros(3), torch.ones(3))
    victim.load_state_dict(weights)
    return victim.eval()


def load_poisoned(stage: Stage, store: Store) -> Poisoned:
    """An overlay from the store, poison or canaries over poison, with the trigger of the attack."""
    attack = cast(Attack, stage.need("poison").method.config)
    tensors = store.load(stage.name, stage.key).tensors
    state = {
        name.removeprefix("state."): tensor
        for name, tensor in tensors.items()
        if name.startswith("state.")
    }
    return Poisoned(
        index_M=tensors["index_M"],
        x_MCHW=tensors["x_MCHW"],
        y_M=tensors["y_M"],
        role_M=tensors["role_M"],
        trigger=partial(stamped, attack.stamp, state=state),
        labels=attack.label_map,
        state=state,
    )


def shape_of(dataset: Dataset) -> dict[str, Any]:
    """What a victim's network has to be built for."""
    return {"num_classes": dataset.num_classes, "image_size": dataset.train.x_NCHW.shape[-1]}


def weights(victim: Victim) -> dict[str, Tensor]:
    return {
        f"{_VICTIM}{name}": tensor.detach().cpu() for name, tensor in victim.state_dict().items()
    }
