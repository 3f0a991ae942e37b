"""Lipschitz bounds of units: how far each channel can carry a change of its input.

Zheng, Tang, Li and Liu 2022, arXiv 2208.03111, section on the channel Lipschitz constant.
The bound of a channel is the largest singular value of its filter, reshaped to input channels by
kernel positions, times the scale of the batch normalisation behind it; of a unit of a linear layer,
the norm of its row.
Differs: convolutions and normalisations are paired by execution, and the variance includes the
normalisation's epsilon; a convolution without one has a scale of 1. Bounds need no data; the
change by the trigger stands beside them, where there is one.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.analyses._units import changes, floats
from raybd.training.layers import channel_bounds, conv_norm_pairs, trace
from raybd.types.errors import UserError
from raybd.types.methods import Analysis, AnalysisInput
from raybd.types.models import Victim

if TYPE_CHECKING:
    import pyarrow as pa


class Lipschitz(Analysis):
    """The Lipschitz bound of each unit, how far it lies out, and its relation to the trigger."""

    looks_at_twin: ClassVar[bool] = True
    u: float = Field(3.0, gt=0)
    """Standard deviations above the mean of its layer from which on a unit is an outlier."""
    images: int = Field(500, ge=1)
    """Largest number of test images for the change by the trigger, the first ones that count."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return layer, unit, lipschitz, z, outlier, tac and spearman.

        z counts standard deviations (of the sample) from the mean of the layer, 0 if all bounds are
        equal. tac is the mean norm of the unit's change by the trigger behind the normalisation,
        null without a trigger; spearman its rank correlation with the bounds of the layer, the same
        in all its rows. Raises UserError if the encoder has no such layer.
        """
        import pyarrow as pa

        victim, pairs = given.victim, given.pairs
        # Two images are enough to see which normalisation follows which convolution.
        found, read_at = _bounds(victim, given.clean.x_NCHW[:2])
        if not found:
            raise UserError(
                "lipschitz: the encoder has no convolution and no linear layer",
                "Leave lipschitz out for this network.",
                exit_code=1,
            )
        tac: dict[str, Tensor] = {}
        if len(pairs):
            x_MCHW, worn_MCHW = pairs.x_MCHW[: self.images], pairs.worn_MCHW[: self.images]
            places = list(dict.fromkeys(read_at.values()))
            changed = changes(victim, x_MCHW, worn_MCHW, places)
            tac = {name: changed[place][0] for name, place in read_at.items()}

        parts = []
        for name, bound_C in found.items():
            z_C = _deviations(bound_C)
            none_C = torch.full_like(bound_C, torch.nan)
            tac_C = tac.get(name, none_C)
            columns = {
                "layer": [name] * len(bound_C),
                "unit": pa.array(range(len(bound_C)), pa.int32()),
                "lipschitz": floats(bound_C),
                "z": floats(z_C),
                "outlier": (z_C > self.u).tolist(),
                "tac": floats(tac_C),
                "spearman": floats([_spearman(bound_C, tac_C)] * len(bound_C)),
            }
            parts.append(pa.table(columns))
        return pa.concat_tables(parts)


def _bounds(victim: Victim, x_BCHW: Tensor) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """Return the bounds of each layer, in the order of execution, and where its change is read."""
    paired = conv_norm_pairs(victim, x_BCHW)
    names = {module: name for name, module in victim.encoder.named_modules()}
    found: dict[str, Tensor] = {}
    read_at: dict[str, str] = {}
    for call in trace(victim, x_BCHW):
        if call.name in paired:
            conv, norm = paired[call.name]
            found[call.name] = channel_bounds(conv, norm)
            read_at[call.name] = names[norm]
        elif isinstance(call.module, nn.Conv2d):
            filters = call.module.weight.detach().double().flatten(2)
            found[call.name] = torch.linalg.matrix_norm(filters, ord=2)
            read_at[call.name] = call.name
        elif isinstance(call.module, nn.Linear):
            found[call.name] = call.module.weight.detach().double().norm(dim=1)
            read_at[call.name] = call.name
    return {name: bound_C.cpu() for name, bound_C in found.items()}, read_at


def _deviations(bound_C: Tensor) -> Tensor:
    """Return how many standard deviations each bound lies above the mean."""
    spread = float(bound_C.std()) if len(bound_C) > 1 else 0.0
    # Equal bounds differ by rounding.
    if spread <= 1e-9 * float(bound_C.mean()):
        return torch.zeros_like(bound_C)
    return (bound_C - bound_C.mean()) / spread


def _spearman(bound_C: Tensor, tac_C: Tensor) -> float:
    """Return the rank correlation; NaN if one of both is constant or missing."""
    from scipy.stats import rankdata

    if len(bound_C) < 2 or bool(tac_C.isnan().any()):
        return float("nan")
    ranks = torch.stack([torch.from_numpy(rankdata(one_C.numpy())) for one_C in (bound_C, tac_C)])
    return float(torch.corrcoef(ranks)[0, 1])
