"""MM-BD: the class of a backdoor can be pushed further above all others than the classes can.

Wang, Xiang, Miller and Kesidis 2024, IEEE Symposium on Security and Privacy, arXiv 2205.06900,
sections on the maximum margin and on its inference; fields and stop rule as in the authors' code.
Needs no images. Random images climb the margin of each class, its logit less the largest other one;
the largest margin is judged under a gamma law of those of the other classes.
Differs: a class stops by its own margins, which are those of the images after the last step. The
gamma law begins at zero (the authors' code fits its beginning, too, to nine numbers), and has a
least spread; classes that no image reaches are left out of it. The number of classes is the
victim's. The scale of margins depends on the training: compare with the clean twin.
"""

import math

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.scanners._classes import SHOWN, anomaly_index, class_name, count_classes, too_few
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.methods import Scanner
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

AT_ONCE = 512
"""Images in one forward pass, at most."""
LEAST_SHAPE = 1e-3
"""Lower end of the shapes of a gamma law that are tried; margins never have one so small."""


class MmBd(Scanner):
    """Score by how unlikely the largest margin is among those of the other classes."""

    starts: int = Field(30, ge=1, json_schema_extra=searched(low=5, high=60))
    """Random images that climb the margin of each class."""
    steps: int = Field(300, ge=1, json_schema_extra=searched(low=100, high=2000, log=True))
    """Steps of gradient ascent, at most."""
    lr: float = Field(0.01, gt=0, json_schema_extra=searched(low=0.001, high=0.1, log=True))
    """Length of a step per gradient, for pixels in 0..1."""
    tolerance: float = Field(1e-5, ge=0)
    """A class ends when its summed margins change by less than this share in a step."""
    level: float = Field(0.05, gt=0, lt=1, json_schema_extra=searched(low=0.01, high=0.2))
    """p-value below which the model is flagged."""
    least_deviation: float = Field(0.01, gt=0, le=0.5)
    """Least spread of the margins without a backdoor: their deviation as a share of their mean."""
    least_classes: int = Field(5, ge=3)
    """Classes without which there is no law of the others."""

    @property
    def fewest_trusted(self) -> int:
        """It needs no images."""
        return 0

    def cannot(self, encoder: nn.Module, num_classes: int) -> str | None:
        """Return why there is no law: there are too few classes."""
        return too_few("mm_bd", num_classes, self.least_classes)

    def scan(self, victim: Victim, clean: Split, rng: Generator) -> Suspicion:
        """Score the victim by 1 - p; of the clean images only the shape is read.

        The facts are `margin[k]` and `index[k]` (deviations above the median) of each class k, the
        class with the largest margin, the p-value, and the images run forward and backward. The
        tensors are `margin`, `index` and `flagged` (K). Workers share the classes. Raises
        Infeasible for too few classes, or without a head.
        """
        shape_CHW = clean.x_NCHW.shape[1:]
        blank_1CHW = torch.zeros(1, *shape_CHW, dtype=torch.uint8)
        num_classes = count_classes("mm_bd", victim, blank_1CHW, self.least_classes)
        victim.to(group.device()).eval()
        margins, images, passes = [], [], 0
        for few_G in torch.arange(num_classes).split(max(1, AT_ONCE // self.starts)):
            start_GSCHW = torch.rand((len(few_G), self.starts, *shape_CHW), generator=rng)
            # The start is drawn for all classes: the number of workers changes nothing.
            mine_G = group.shard(torch.arange(len(few_G)))
            margin_GS, x_GSCHW, steps = self.climb(victim, few_G[mine_G], start_GSCHW[mine_G])
            best_G = margin_GS.argmax(1)
            each_G = torch.arange(len(mine_G), device=best_G.device)
            margins.append(group.gather_rows(margin_GS[each_G, best_G], len(few_G)).cpu())
            images.append(group.gather_rows(x_GSCHW[each_G, best_G], len(few_G)).cpu())
            passes += int(group.sum_over(torch.tensor(steps, device=group.device())))
        return self._verdict(torch.cat(margins), torch.cat(images), self.starts * passes)

    def climb(self, victim: Victim, class_G: Tensor, x_GSCHW: Tensor) -> tuple[Tensor, Tensor, int]:
        """Return the margins (G x S) of images that climbed those of their classes, and the images.

        Images are float32 in 0..1. Also the number of steps, summed over the classes.
        """
        class_G = group.to_device(class_G)
        x_GSCHW = group.to_device(x_GSCHW).clone()
        before_G = torch.full((len(class_G),), torch.inf, device=class_G.device)
        ended_G = torch.zeros_like(before_G, dtype=torch.bool)
        done = 0
        for _ in range(self.steps):
            open_G = (~ended_G).nonzero().flatten()
            if not len(open_G):
                break
            free_OSCHW = x_GSCHW[open_G].requires_grad_()
            margin_OS = margins(victim, free_OSCHW, class_G[open_G])
            (gradient,) = torch.autograd.grad(margin_OS.sum(), [free_OSCHW])
            x_GSCHW[open_G] = free_OSCHW.detach() + self.lr * gradient

            sum_O = margin_OS.detach().sum(1)
            change_O = (sum_O - before_G[open_G]).abs()
            ended_G[open_G] = change_O < self.tolerance * before_G[open_G].abs()
            before_G[open_G] = sum_O
            done += len(open_G)

        with torch.no_grad():
            margin_GS = margins(victim, x_GSCHW, class_G)
        return margin_GS, x_GSCHW.clamp(0, 1), done

    def _verdict(self, margin_K: Tensor, x_KCHW: Tensor, passes: int) -> Suspicion:
        p = p_value(margin_K, self.least_deviation)
        index_K = -anomaly_index(margin_K, self.least_deviation)
        largest = int(margin_K.argmax())
        flagged_K = torch.zeros(len(margin_K), dtype=torch.bool)
        flagged_K[largest] = p < self.level
        facts = {
            **{f"index[{k}]": float(index) for k, index in enumerate(index_K)},
            **{f"margin[{k}]": float(margin) for k, margin in enumerate(margin_K)},
            "suspected_class": float(largest),
            "p": p,
            "passes": float(passes),
        }
        shown = margin_K.argsort(descending=True, stable=True)[:SHOWN].sort().values
        picture_KCHW = (255 * x_KCHW).round().to(torch.uint8)
        unreached = int((margin_K <= 0).sum())
        return Suspicion(
            torch.tensor([1 - p]),
            torch.tensor([1 - self.level]),
            warning=(
                f"mm_bd: no image reaches {unreached} of {len(margin_K)} classes: raise steps or lr"
                if 2 * unreached >= len(margin_K)
                else None
            ),
            facts=facts,
            pictures={
                class_name(k, bool(flagged_K[k])): picture_KCHW[k : k + 1] for k in shown.tolist()
            },
            tensors={"margin": margin_K, "index": index_K, "flagged": flagged_K},
        )


def margins(victim: Victim, x_GSCHW: Tensor, class_G: Tensor) -> Tensor:
    """Return how far the logit of its class lies above the largest other one, G x S.

    Images are in 0..1; what lies outside counts as black or white.
    """
    x_NCHW = 255 * x_GSCHW.flatten(0, 1).clamp(0, 1)
    logits_NK = victim(x_NCHW.contiguous(memory_format=torch.channels_last)).float()
    class_N1 = class_G.repeat_interleave(x_GSCHW.shape[1])[:, None]
    own_N = logits_NK.gather(1, class_N1)[:, 0]
    other_N = logits_NK.scatter(1, class_N1, -torch.inf).amax(1)
    margin_GS: Tensor = (own_N - other_N).view(x_GSCHW.shape[:2])
    return margin_GS


def p_value(margin_K: Tensor, least_deviation: float) -> float:
    """Return how likely a largest margin of this size is, under the law of the other classes.

    A gamma law that begins at zero is fitted to the other positive margins; its deviation is at
    least `least_deviation` times its mean. 1 where fewer than two of them are positive.
    """
    from scipy.optimize import brentq
    from scipy.special import digamma, gammaincc

    margin_K = margin_K.double()
    largest = float(margin_K.max())
    # Only one of several equal margins is the largest.
    others = torch.cat([margin_K[: margin_K.argmax()], margin_K[margin_K.argmax() + 1 :]])
    others = others[others > 0]
    if largest <= 0 or len(others) < 2:
        return 1.0

    def excess(shape: float) -> float:
        """Zero at the shape of the greatest likelihood."""
        return math.log(shape) - float(digamma(shape)) - spread

    mean = float(others.mean())
    spread = float(others.mean().log() - others.log().mean())
    highest = 1 / least_deviation**2
    shape = highest if excess(highest) >= 0 else float(brentq(excess, LEAST_SHAPE, highest))
    above = float(gammaincc(shape, largest * shape / mean))
    if above >= 1:
        return 1.0
    # 1 - (1 - above)^K, without the rounding of a difference of nearly equal numbers.
    return -math.expm1((len(others) + 1) * math.log1p(-above))
