"""EP: prune the channels whose activations have little entropy on the poisoned training set.

Zheng, Tang, Li and Liu 2022, Pre-activation Distributions Expose Backdoor Neurons, NeurIPS 2022
(OpenReview wwW-1k1ljIg), section on entropy-based pruning. Also in BackdoorBench (Wu et al. 2022,
arXiv 2206.12654). A backdoor's channel has two modes on a mixture of clean and triggered images;
once it is standardised, the large mode is narrow, and its histogram has little entropy.
What is read of a channel is the largest input of its batch normalisation over all positions. A
channel is pruned if its entropy is below the mean of its layer by `u` standard deviations (of the
sample, n - 1).
Differs: 5,000 images, where the authors' code takes 500 and advises all; bins are half-open, so
that the least value of a layer counts, which the authors' strict inequalities leave out; a channel
that is constant is kept and counts for no moment of its layer, where theirs gives NaN. In a layer
of n channels no entropy can lie more than (n - 1) / sqrt(n) deviations from the mean: u = 3 prunes
nothing in layers of ten channels or fewer.
"""

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.repairs._pruning import BOUNDS, affine_norms, deviations, missing_norms, prune
from raybd.training import layers
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended


class Ep(Repair):
    """Silence the channels of low entropy; needs the suspects without labels, and no training."""

    u: float | None = Field(3.0, gt=0, json_schema_extra=searched(low=1.0, high=6.0))
    """Standard deviations below the mean entropy of its layer from which on a channel is pruned;
    unset: the strongest of 10, 9.5, ... 1 that keeps the accuracy on the clean part."""
    images: int = Field(5000, ge=2, json_schema_extra=searched(low=250, high=10000, log=True))
    """Suspects that are read, drawn at random. The authors' code: 500; BackdoorBench: 256."""
    bin: float = Field(0.01, ge=1e-4, json_schema_extra=searched(low=0.01, high=0.5, log=True))
    """Width of a bin of the histogram, in standard deviations of a channel. BackdoorBench: 0.1."""
    bias: bool = False
    """Silence the bias of a pruned channel as well, as BackdoorBench does; otherwise the channel
    still puts out a constant."""

    def cannot(self, encoder: nn.Module, num_classes: int) -> str | None:
        """Return why an encoder has nothing to prune: it has no batch normalisation."""
        return missing_norms("ep", encoder)

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return a pruned copy; nothing is trained.

        The facts are the number of pruned channels, of how many, the bound, the largest deviation
        below the mean in each layer (`max_z[name]`), and the accuracy on the clean part before and
        after. Raises Infeasible without batch normalisation, or if `u` is unset and there is
        nothing to choose it on.
        """
        norms = affine_norms("ep", victim, suspects.x_NCHW[:2])
        row_N = torch.randperm(len(suspects), generator=rng)[: self.images]
        largest = layers.activations(
            victim,
            suspects.select(row_N),
            list(norms),
            lambda given_BCHW: given_BCHW.amax((2, 3)),
            inputs=True,
        )
        below = {n: deviations(-entropies(largest[n], self.bin)) for n in norms}

        # Nothing was learned from the clean part, so that all of it can be chosen on.
        pruned = prune(
            victim,
            lambda u: {name: z_C > u for name, z_C in below.items()},
            BOUNDS if self.u is None else self.u,
            clean,
            self.bias,
        )
        facts = {f"max_z[{name}]": float(z_C.nan_to_num().max()) for name, z_C in below.items()}
        return pruned.defended("ep", victim, clean, "u", facts)


def entropies(value_NC: Tensor, width: float) -> Tensor:
    """Return the entropy of each channel's histogram over images, in nats, C.

    Values are standardised for each channel; bins of `width` begin at the least value of all
    channels. NaN where a channel is constant.
    """
    # Asked of the values: rounding gives equal ones a deviation.
    constant_C = value_NC.amax(0) == value_NC.amin(0)
    value_NC = value_NC.double()
    standard_NC = (value_NC - value_NC.mean(0)) / value_NC.std(0)
    # Any number: a constant channel counts for nothing.
    standard_NC[:, constant_C] = 0
    bin_NC = ((standard_NC - standard_NC.min()) / width).long()

    # Equal bins lie side by side once sorted. A table of all bins would be as long as the widest
    # outlier is far away.
    bin_NC = bin_NC.sort(0).values
    starts_NC = bin_NC.diff(dim=0, prepend=bin_NC[:1]) > 0
    count_NC = torch.zeros_like(value_NC)
    count_NC.scatter_add_(0, starts_NC.long().cumsum(0), torch.ones_like(value_NC))
    share_NC = count_NC / len(value_NC)
    entropy_C = -torch.xlogy(share_NC, share_NC).sum(0)
    entropy_C[constant_C] = torch.nan
    return entropy_C
