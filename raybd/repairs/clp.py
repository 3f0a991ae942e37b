"""CLP: prune the channels that can change their output most, which a backdoor needs.

Zheng, Tang, Li and Liu 2022, arXiv 2208.03111, section on channel Lipschitz pruning.
A channel's bound is the largest singular value of its filter, reshaped to input channels by kernel
positions, times the scale of the batch normalisation behind it. A channel is pruned if its bound
exceeds the mean of its layer by `u` standard deviations (of the sample, n - 1).
Differs: convolutions and normalisations are paired by execution, where the authors' code pairs
neighbours in the order of definition, which is wrong for shortcuts and pre-activation blocks; the
variance includes the normalisation's epsilon, as in its forward pass. In a layer of n channels no
bound can lie more than (n - 1) / sqrt(n) deviations above the mean: u = 3 prunes nothing in layers
of ten channels or fewer.
"""

import copy

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.repairs._clean_accuracy import accuracy_facts, lost
from raybd.repairs._pruning import deviation
from raybd.training import layers
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended


class Clp(Repair):
    """Silence the channels with outlying Lipschitz bounds; needs neither data nor training."""

    u: float = Field(3.0, gt=0, json_schema_extra=searched(low=2.0, high=10.0))
    """Standard deviations above the mean of its layer from which on a channel is pruned."""

    def cannot(self, encoder: nn.Module, num_classes: int) -> str | None:
        """Return why an encoder has nothing to prune: it has no batch normalisation."""
        if any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules()):
            return None
        return "clp needs convolutions with batch normalisation, and the network has none"

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return a pruned copy; nothing is trained.

        The facts are the number of pruned channels, of how many, and the largest deviation in each
        layer (`max_z[name]`). Suspects give the size of the images, clean ones the accuracy.
        Raises Infeasible if no convolution is followed by batch normalisation.
        """
        # The facts compare the copy with the victim as it was.
        pruned = copy.deepcopy(victim)
        # Two images are enough to see which normalisation follows which convolution.
        pairs = layers.conv_norm_pairs(pruned, suspects.x_NCHW[:2])
        if not pairs:
            raise Infeasible("clp: no convolution is followed directly by batch normalisation")

        facts = {"pruned_channels": 0.0, "channels": 0.0}
        for name, (conv, norm) in pairs.items():
            bound_C = layers.channel_bounds(conv, norm)
            # Within its layer only: widths and scales of layers differ, and with them their bounds.
            outlying_C = bound_C > bound_C.mean() + self.u * deviation(bound_C)
            silence(norm, outlying_C)
            facts["pruned_channels"] += float(outlying_C.sum())
            facts["channels"] += len(bound_C)
            facts[f"max_z[{name}]"] = largest_z(bound_C)

        missed = (
            f"nothing was pruned: no channel lies {self.u:g} deviations above its layer; lower u"
        )
        pruned = pruned.cpu().eval()
        facts |= accuracy_facts(victim, pruned, clean)
        warning = lost("clp", facts, clean) if facts["pruned_channels"] else missed
        return Defended(pruned, warning=warning, facts=facts)


def silence(norm: nn.BatchNorm2d, outlying_C: Tensor) -> None:
    """Let channels of a batch normalisation put out zero."""
    with torch.no_grad():
        norm.weight[outlying_C] = 0
        # With its bias, the channel would still put out a constant.
        norm.bias[outlying_C] = 0


def largest_z(bound_C: Tensor) -> float:
    """Return by how many standard deviations the largest bound lies above the mean; 0 if equal."""
    return float((bound_C.max() - bound_C.mean()) / deviation(bound_C))
