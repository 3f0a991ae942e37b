"""The base class of attacks that fine-tune a clean encoder until it has a backdoor."""

from typing import ClassVar, Literal

from raybd.poisoning.label_maps import AllToOne
from raybd.training.recipe import Recipe
from raybd.types.data import LabelMap
from raybd.types.methods import Attack, RateBasis, ThreatModel

# BadEncoder and DRUPE compare images with what the clean encoder made of them once, beforehand.
NoAugmentation = Literal["none"]


class EncoderAttack(Recipe, Attack):
    """A fine-tuning of the clean encoder (its twin); no training image changes."""

    threat_model: ClassVar[ThreatModel] = "encoder"
    rate_basis: ClassVar[RateBasis | None] = None
    schedule: Literal["cosine", "step", "constant"] = "constant"
    """How the learning rate falls: to zero at the last step, by `gamma` at each milestone, or
    never."""
    augment: NoAugmentation = "none"
    """The images are not augmented, apart from what the attack itself does to them."""
    labels: AllToOne = AllToOne()
    """The target class; no training image changes."""

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels
