"""Activation of each unit on images without and with the trigger.

A tool of BackdoorBench: Wu et al. 2022, arXiv 2206.12654.
Differs: deviations and Cohen's d stand beside the means, so that a difference has a scale.
"""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from torch import Generator, Tensor

from raybd.analyses._units import Reduction, first_pairs, floats, layers_of, reduced
from raybd.types.methods import Analysis, AnalysisInput

if TYPE_CHECKING:
    import pyarrow as pa


class NeuronActivation(Analysis):
    """Mean and deviation of each unit on test images without and with the trigger."""

    needs_trigger: ClassVar[bool] = True
    looks_at_twin: ClassVar[bool] = True
    layer: str = "last_map"
    """Dotted name of a module of the encoder, last_map, features, or all."""
    reduction: Reduction = "mean"
    """What a map is reduced to over its positions."""
    images: int = Field(500, ge=2)
    """Largest number of test images, the first ones that count."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return layer, unit, clean_mean, clean_sd, stamped_mean, stamped_sd and cohen_d.

        Deviations are those of a sample (n - 1). Cohen's d is the difference of the means, stamped
        less clean, by the root of the mean variance; null where a unit is constant.
        """
        import pyarrow as pa

        pairs = first_pairs("neuron_activation", given.pairs, self.images)
        names = layers_of("neuron_activation", given.victim, pairs.x_MCHW, self.layer)
        clean = reduced(given.victim, pairs.x_MCHW, names, self.reduction)
        stamped = reduced(given.victim, pairs.worn_MCHW, names, self.reduction)

        parts = []
        for name in names:
            clean_NC, stamped_NC = clean[name].double(), stamped[name].double()
            columns = {
                "layer": [name] * clean_NC.shape[1],
                "unit": pa.array(range(clean_NC.shape[1]), pa.int32()),
                "clean_mean": floats(clean_NC.mean(0)),
                "clean_sd": floats(clean_NC.std(0)),
                "stamped_mean": floats(stamped_NC.mean(0)),
                "stamped_sd": floats(stamped_NC.std(0)),
                "cohen_d": floats(_effect(clean_NC, stamped_NC)),
            }
            parts.append(pa.table(columns))
        return pa.concat_tables(parts)


def _effect(clean_NC: Tensor, stamped_NC: Tensor) -> Tensor:
    """Return Cohen's d of each unit; NaN without any deviation."""
    deviation_C = ((clean_NC.var(0) + stamped_NC.var(0)) / 2).sqrt()
    effect_C = (stamped_NC.mean(0) - clean_NC.mean(0)) / deviation_C
    return effect_C.where(deviation_C > 0, float("nan"))
