"""Whether the losses of a network can tell poison from clean images, judged without any truth.

Li et al. 2021, arXiv 2110.11571, and Zhang et al. 2023, arXiv 2303.06818, take for granted that
they can. On clean data, or where a backdoor is learned slowly, they cannot; the guard is ours.
"""

from pydantic import Field
from torch import Tensor

from raybd.training.shortcut import low_mode, lowest
from raybd.types.config import Config


class Guarded(Config):
    """A defense that relies on the low losses of poison, and says where there are none."""

    smallest_mode: float = Field(0.01, ge=0, lt=1)
    """Guard: the smallest share of images that the mode of low losses may hold."""
    largest_mode: float = Field(0.25, gt=0, lt=1)
    """Guard: the largest share of images that the mode of low losses may hold."""
    near_zero: float = Field(0.1, gt=0)
    """Guard: the largest geometric mean of the losses in their low mode; a loss of 0.1 is a
    probability of 0.9 for the given label."""
    label_share: float = Field(0.5, gt=0, lt=1)
    """Guard: the least share of one label among the 1 % of images with the lowest losses."""

    def judged(
        self, loss_N: Tensor, y_N: Tensor, whose: str, then: str
    ) -> tuple[str | None, dict[str, float]]:
        """Judge whether losses have a small mode near zero of one label.

        Returns why not (None: they have), and what was measured. The reason begins with `whose`
        losses they are and ends with what would happen `then`.
        """
        mode = low_mode(loss_N)
        low = lowest(loss_N)
        label_share = float(y_N[low].bincount().max()) / len(low)
        facts = {
            "low mode share": mode.share,
            "low mode loss": mode.mean,
            "low mode label share": label_share,
        }
        # A large low mode holds clean images that are easy or already fitted, which must keep their
        # weight. Poison of one target has one label.
        small = mode.two and self.smallest_mode <= mode.share <= self.largest_mode
        if small and mode.mean <= self.near_zero and label_share > self.label_share:
            return None, facts
        return (
            f"{whose} have no small"
            f" mode near zero of one label ({mode.share:.0%} of the images are in the low mode,"
            f" at {mode.mean:.2g}; {label_share:.0%} of the lowest losses have one label):"
            f" either no backdoor is learned first, or {then}"
        ), facts
