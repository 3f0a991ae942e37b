"""Label noise: some labels are wrong and no image changes. A control: it installs no backdoor.

Han, Yao, Yu, Niu, Xu, Hu, Tsang and Sugiyama 2018, arXiv 1804.06872, section on the experiments
(symmetry flipping and pair flipping). Detectors of backdoors should not flag these images.
Differs: exactly the share `rate` of the labels is wrong, not each label with that probability.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from raybd.poisoning.attack import RatedAttack
from raybd.poisoning.label_maps import NoTarget
from raybd.poisoning.overlay import same_role, untouched
from raybd.types.data import CROSS, LabelMap, Poisoned
from raybd.types.methods import AttackInput


class LabelNoise(RatedAttack):
    """Give a share of the training images a wrong label (role `cross`)."""

    has_trigger: ClassVar[bool] = False
    noise: Literal["symmetric", "next"] = "symmetric"
    """symmetric: any other class, each equally likely; next: the class after the true one."""

    @property
    def label_map(self) -> LabelMap:
        """A map that counts no image: there is no attack success."""
        return NoTarget()

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Draw rows and their wrong labels."""
        train = given.train
        rows = self.choose(train.y_N, given.num_classes, rng)

        # A shift of 1 to K - 1 reaches each class but the true one, and never the true one.
        shift_M = torch.ones_like(rows)
        if self.noise == "symmetric":
            shift_M = torch.randint(1, given.num_classes, (len(rows),), generator=rng)
        # `overlay` would stamp these rows and give them the role of poison.
        return replace(
            untouched(self, given),
            index_M=rows,
            x_MCHW=train.x_NCHW[rows],
            y_M=(train.y_N[rows] + shift_M) % given.num_classes,
            role_M=same_role(rows, CROSS),
        )

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images: there is no trigger."""
        # A copy all the same: a caller may write into what a stamp returns.
        return x_NCHW.clone()
