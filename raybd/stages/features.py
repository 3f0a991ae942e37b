"""Features: the training set as the victim sees it, once for all detectors that read that."""

from dataclasses import dataclass

import torch
from torch import Tensor

from raybd.cells.loading import load_poisoned, load_victim
from raybd.cells.stage import OnVictim, ResourceRole, Result
from raybd.results.store import Store
from raybd.training.inference import infer
from raybd.types.data import Dataset


@dataclass(frozen=True, kw_only=True)
class Features(OnVictim):
    """Embeddings of all training images, and logits if the victim has a head, in one pass."""

    name = "features"

    @property
    def resource_role(self) -> ResourceRole:
        """Detectors read it."""
        return "detectors"

    def run(self, store: Store, dataset: Dataset) -> Result:
        """Run the victim over the training set."""
        suspects = load_poisoned(self.overlay_stage, store).over(dataset.train)
        victim = load_victim(self.victim, store)
        # An encoder predicts nothing: there are no logits.
        if victim.head is None:
            return Result({"z_ND": infer(victim, suspects.x_NCHW, victim.embed)})

        def both(x_BCHW: Tensor) -> Tensor:
            logits_BK, z_BD = victim(x_BCHW, with_embedding=True)
            return torch.cat([z_BD.float(), logits_BK.float()], dim=1)

        # One pass for both; a detector that reads only one of them costs nothing more.
        both_NF = infer(victim, suspects.x_NCHW, both)
        width = both_NF.shape[1] - dataset.num_classes
        z_ND, logits_NK = both_NF.split([width, dataset.num_classes], dim=1)
        return Result({"z_ND": z_ND, "logits_NK": logits_NK})
