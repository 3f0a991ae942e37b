"""Gradients of a label's logit at all convolutions, and how far they spread in a class."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.training.inference import infer, logits
from raybd.training.layers import trace
from raybd.types.data import Split
from raybd.types.models import Victim


class Directions:
    """Reads gradients with respect to the outputs of a victim's convolutions."""

    def __init__(self, victim: Victim, x_BCHW: Tensor, batch_size: int) -> None:
        """Find the convolutions, in the order in which they run on two images."""
        self.victim = victim
        self.batch_size = batch_size
        called = (call for call in trace(victim, x_BCHW) if isinstance(call.module, nn.Conv2d))
        self.widths = {call.name: call.shape[1] for call in called}

    def correct(self, split: Split) -> Split:
        """Return the images that the victim gives their label."""
        return split.select(logits(self.victim, split).argmax(1) == split.y_N)

    def of(self, split: Split, label: int) -> Sequence[Tensor]:
        """Return the gradient of the logit of a label at each convolution, N x channels.

        Its mean over the positions, for each image, in one pass for all convolutions.
        """

        def read(x_BCHW: Tensor) -> Tensor:
            seen: dict[str, Tensor] = {}

            def keeping(name: str) -> Callable[..., Tensor]:
                def hook(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
                    # Parameters may be frozen.
                    seen[name] = out if out.requires_grad else out.detach().requires_grad_()
                    # A copy goes on: the next module may change its input in place.
                    return seen[name].clone()

                return hook

            named = [(name, self.victim.encoder.get_submodule(name)) for name in self.widths]
            hooks = [module.register_forward_hook(keeping(name)) for name, module in named]
            try:
                with torch.enable_grad():
                    total = self.victim(x_BCHW)[:, label].sum()
                    gradients = torch.autograd.grad(total, [seen[name] for name in self.widths])
            finally:
                for hook in hooks:
                    hook.remove()
            return torch.cat([part.mean((2, 3)) for part in gradients], 1)

        whole_ND = infer(self.victim, split.x_NCHW, read, batch_size=self.batch_size)
        parts: Sequence[Tensor] = whole_ND.split(list(self.widths.values()), 1)
        return parts


def cosine(g_ND: Tensor, c_D: Tensor) -> Tensor:
    """Return the cosine of each row and one direction, float64."""
    return F.cosine_similarity(g_ND.double(), c_D.double()[None], dim=1)


def gap(to_trusted_N: Tensor, to_farthest_N: Tensor) -> Tensor:
    """Return the dispersion of a class: the root mean square of the two cosines' difference."""
    return (to_trusted_N - to_farthest_N).square().mean().sqrt()


def share(to_trusted_N: Tensor, to_suspects_N: Tensor) -> Tensor:
    """Return the share of the distance to the suspects in that to both, 0..1, from two cosines."""
    far_N = 1 - to_suspects_N
    share_N: Tensor = far_N / (far_N + 1 - to_trusted_N).clamp_min(torch.finfo(torch.float64).tiny)
    return share_N


def towards(to_trusted_N: Tensor, to_suspects_N: Tensor) -> Tensor:
    """Return how close each image is to the suspects, 0 (closest) to 1, from its two cosines.

    It is the share of the distance to the suspects in that to both, on the scale of all images.
    """
    share_N = share(to_trusted_N, to_suspects_N)
    spread = (share_N.max() - share_N.min()).clamp_min(torch.finfo(torch.float64).tiny)
    return (share_N - share_N.min()) / spread
