"""Activation distribution: the classes of the images that excite each unit most.

A tool of BackdoorBench: Wu et al. 2022, arXiv 2206.12654.
Differs: images with the trigger are a class of their own, the last; the entropy of a unit's classes
stands beside them.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Generator

from raybd.analyses._units import Reduction, first_pairs, floats, layers_of, reduced
from raybd.types.methods import Analysis, AnalysisInput

if TYPE_CHECKING:
    import pyarrow as pa


class ActivationDistribution(Analysis):
    """How many of each unit's top images are of which class, or wear the trigger."""

    needs_trigger: ClassVar[bool] = True
    looks_at_twin: ClassVar[bool] = True
    layer: str = "last_map"
    """Dotted name of a module of the encoder, last_map, features, or all."""
    reduction: Reduction = "mean"
    """What a map is reduced to over its positions."""
    images: int = Field(1000, ge=1)
    """Largest number of test images, and of triggered ones: the first ones (that count)."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return layer, unit, class, count and entropy.

        As many top images of each unit are counted as there are triggered ones; class K, the number
        of classes, are those. The entropy of a unit is in nats, the same in all its rows.
        """
        import pyarrow as pa

        pairs = first_pairs("activation_distribution", given.pairs, self.images)
        test_NCHW, y_N = given.test.x_NCHW[: self.images], given.test.y_N[: self.images]
        names = layers_of("activation_distribution", given.victim, pairs.x_MCHW, self.layer)
        x_NCHW = torch.cat([test_NCHW, pairs.worn_MCHW])
        class_N = torch.cat([y_N, torch.full((len(pairs),), given.num_classes)])
        classes = given.num_classes + 1

        parts = []
        for name, value_NC in reduced(given.victim, x_NCHW, names, self.reduction).items():
            top_MC = value_NC.argsort(stable=True, dim=0, descending=True)[: len(pairs)]
            per_unit = [torch.bincount(class_N[top_M], minlength=classes) for top_M in top_MC.T]
            count_CK = torch.stack(per_unit)
            share_CK = count_CK / count_CK.sum(1, keepdim=True)
            entropy_C = torch.special.entr(share_CK).sum(1)
            units = len(count_CK)
            unit_M = torch.arange(units).repeat_interleave(classes)
            columns = {
                "layer": [name] * (units * classes),
                "unit": pa.array(unit_M.tolist(), pa.int32()),
                "class": pa.array([*range(classes)] * units, pa.int32()),
                "count": pa.array(count_CK.flatten().tolist(), pa.int32()),
                "entropy": floats(entropy_C.repeat_interleave(classes)),
            }
            parts.append(pa.table(columns))
        return pa.concat_tables(parts)
