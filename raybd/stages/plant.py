"""Plant: canaries over the poison, to measure detectors without truth."""

from dataclasses import dataclass, replace
from typing import cast

import torch

from raybd.canaries.canaries import CANARY, Canaries
from raybd.cells.loading import STATE_PREFIX, load_poisoned
from raybd.cells.stage import ResourceRole, Result, Stage, random_stream
from raybd.metrics.classification import predictions
from raybd.results.store import Store
from raybd.stages.poison import Poison
from raybd.training.inference import infer
from raybd.types.data import Dataset, Poisoned
from raybd.types.models import Victim


@dataclass(frozen=True, kw_only=True)
class Plant(Stage):
    """The overlay of the poison with canaries and untouched trusted images in some rows."""

    name = "plant"
    poison: Poison

    @property
    def poison_stage(self) -> Stage:
        """The poison below the canaries."""
        return self.poison

    @property
    def overlay_stage(self) -> Stage:
        """Itself: it changed the training set last."""
        return self

    @property
    def resource_role(self) -> ResourceRole:
        """It only changes images."""
        return "data"

    def run(self, store: Store, dataset: Dataset) -> Result:
        """Draw the rows blindly; whatever stood there, poison too, makes way."""
        poisoned = load_poisoned(self.poison, store)
        planted = cast(Canaries, self.method.config).plant(
            dataset.train, dataset.clean, dataset.num_classes, random_stream("plant", self.seed)
        )
        # A row has one image: what is planted hides the poison that it replaces.
        stays_M = ~torch.isin(poisoned.index_M, planted.index_M)
        tensors = {
            "index_M": torch.cat([poisoned.index_M[stays_M], planted.index_M]),
            "x_MCHW": torch.cat([poisoned.x_MCHW[stays_M], planted.x_MCHW]),
            "y_M": torch.cat([poisoned.y_M[stays_M], planted.y_M]),
            "role_M": torch.cat([poisoned.role_M[stays_M], planted.role_M]),
            "used_L": planted.used_L,
            **{f"{STATE_PREFIX}{name}": tensor for name, tensor in poisoned.state.items()},
        }
        left = len(dataset.clean) - len(planted.used_L)
        return Result(tensors, {"n_planted": len(planted.index_M), "n_trusted_left": left})

    def without_planted(self, store: Store, dataset: Dataset) -> Dataset:
        """Return the data set without the trusted images that were planted."""
        left_L = torch.ones(len(dataset.clean), dtype=torch.bool)
        # A detector that trusts a planted image would know it again in the training set.
        left_L[store.load(self.name, self.key).tensors["used_L"]] = False
        return replace(dataset, clean=dataset.clean.select(left_L))


def canaries_learned(victim: Victim, overlay: Poisoned) -> dict[str, float]:
    """Return the share of canaries that a victim gives their planted label; {} without canaries.

    A detector cannot be measured by triggers that no victim has learned.
    """
    canaries_M = overlay.role_M == CANARY
    if not canaries_M.any():
        return {}
    predicted_M = predictions(infer(victim, overlay.x_MCHW[canaries_M]))
    hits_M = predicted_M == overlay.y_M[canaries_M]
    return {"canaries_learned": float(hits_M.double().mean())}
