"""BNP: prune the channels whose statistics on clean images differ from those of the training.

Zheng, Tang, Li and Liu 2022, Pre-activation Distributions Expose Backdoor Neurons, NeurIPS 2022
(OpenReview wwW-1k1ljIg), section on pruning by batch-normalisation statistics. Also in
BackdoorBench (Wu et al. 2022, arXiv 2206.12654), with variances where the logarithm has deviations,
which doubles that term: no divergence any more.
A channel's divergence is that of the normal distribution of its inputs on clean images (mean mu1,
deviation s1) from that of the running statistics (mu2, s2), which poison has moved:
ln(s2 / s1) + (s1^2 + (mu1 - mu2)^2) / (2 s2^2) - 1/2. A channel is pruned if it exceeds the mean of
its layer by `u` standard deviations (of the sample, n - 1).
It needs the running statistics that the poisoned training left: behind a fine-tuning on clean
images it is blind.
Differs: variances below the normalisation's epsilon count as that. In a layer of n channels no
divergence can lie more than (n - 1) / sqrt(n) deviations above the mean: u = 3 prunes nothing in
layers of ten channels or fewer.
"""

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.repairs._pruning import BOUNDS, affine_norms, deviations, missing_norms, prune
from raybd.training import layers
from raybd.training.held_out import fit_and_held
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended


class Bnp(Repair):
    """Silence the channels of diverging statistics; needs clean images, and no training."""

    u: float | None = Field(3.0, gt=0, json_schema_extra=searched(low=1.0, high=6.0))
    """Standard deviations above the mean divergence of its layer from which on a channel is pruned;
    unset: the strongest of 10, 9.5, ... 1 that keeps the accuracy on the held-out images."""
    bias: bool = False
    """Silence the bias of a pruned channel as well; otherwise it still puts out a constant."""

    def cannot(self, encoder: nn.Module, num_classes: int) -> str | None:
        """Return why an encoder has nothing to prune: it has no batch normalisation."""
        return missing_norms("bnp", encoder)

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return a pruned copy; nothing is trained, and the suspects are not used.

        The statistics are those of the whole clean part, or of what is not held out if `u` is
        chosen. The facts are the number of pruned channels, of how many, the bound, the largest
        deviation in each layer (`max_z[name]`), and the accuracy before and after. Raises
        Infeasible without batch normalisation or clean images.
        """
        if not len(clean):
            raise Infeasible("bnp needs trusted images: set the data set's `clean`")
        norms = affine_norms("bnp", victim, clean.x_NCHW[:2])
        fit, held = (clean, clean) if self.u is not None else fit_and_held(clean, rng)
        moments = layers.activations(victim, fit, list(norms), _moments_of_maps, inputs=True)
        above = {
            name: deviations(divergences(norm, *moments_of_images(moments[name])))
            for name, norm in norms.items()
        }

        pruned = prune(
            victim,
            lambda u: {name: z_C > u for name, z_C in above.items()},
            BOUNDS if self.u is None else self.u,
            held,
            self.bias,
        )
        facts = {f"max_z[{name}]": float(z_C.max()) for name, z_C in above.items()}
        return pruned.defended("bnp", victim, held, "u", facts)


def moments_of_images(moments_N2C: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance over images and positions, C each, from those of each image."""
    mean_NC, variance_NC = moments_N2C.double().unbind(1)
    # Within images and between them: a difference of squares would cancel most digits.
    return mean_NC.mean(0), variance_NC.mean(0) + mean_NC.var(0, correction=0)


def divergences(norm: nn.BatchNorm2d, mean_C: Tensor, variance_C: Tensor) -> Tensor:
    """Return how far normal inputs of this mean and variance diverge from the running ones, C."""
    assert norm.running_mean is not None and norm.running_var is not None
    running_C = norm.running_var.detach().cpu().double().clamp_min(norm.eps)
    shift_C = mean_C - norm.running_mean.detach().cpu().double()
    variance_C = variance_C.clamp_min(norm.eps)
    logarithm_C = 0.5 * (running_C / variance_C).log()
    return logarithm_C + (variance_C + shift_C.square()) / (2 * running_C) - 0.5


def _moments_of_maps(given_BCHW: Tensor) -> Tensor:
    """Return mean and variance of each image's channels over positions, B x 2 x C."""
    variance_BC, mean_BC = torch.var_mean(given_BCHW.float(), (2, 3), correction=0)
    return torch.stack([mean_BC, variance_BC], 1)
