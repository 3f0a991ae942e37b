"""FreeEagle: what a middle layer must put out for other classes, asks for the target class, too.

Fu, Zhang, Ji et al. 2023, USENIX Security, arXiv 2302.14500, sections on dummy representations and
on the anomaly metric; fields as in the authors' code. Needs no images. An output of a middle layer
is found for each class that the rest of the network takes for it; a class that the outputs of the
other classes lean to as well is suspected.
Differs: the layer is the end of the last stage but one of any network with maps, unless another one
is named, and outputs are not negative if the layer puts out nothing negative for random images (the
authors' code has a table of networks). The outputs of all classes are found at once. The quartiles
have a least distance. The paper takes its threshold from models that are known to be clean or
backdoored; here it is a constant, so compare with the clean twin.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.scanners._classes import count_classes, too_few
from raybd.training.layers import reading, stages, tail
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import Infeasible, UserError
from raybd.types.methods import Scanner
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

PROBES = 8
"""Random images that show what a layer puts out."""


class FreeEagle(Scanner):
    """Score by how far one class stands out among those that foreign outputs lean to."""

    layer: str | None = None
    """The module of the encoder whose output is sought; None: the end of the last stage but one."""
    steps: int = Field(1000, ge=1, json_schema_extra=searched(low=100, high=2000, log=True))
    """Steps of Adam."""
    lr: float = Field(0.01, gt=0, json_schema_extra=searched(low=0.001, high=0.1, log=True))
    """Learning rate of Adam."""
    weight_decay: float = Field(0.005, ge=0, json_schema_extra=searched(low=1e-4, high=0.05))
    """Weight of the L2 penalty of the outputs, in the gradient."""
    metric: Literal["softmax", "logits"] = "softmax"
    """What a leaning is: the probability of a class, or its logit. Probabilities vanish where the
    rest of the network is very sure, and then compare noise."""
    threshold: float = Field(2.0, gt=0, json_schema_extra=searched(low=1.0, high=5.0))
    """Distance from the upper quartile, in distances of the quartiles, above which a class and
    with it the model is flagged."""
    least_spread: float = Field(0.01, gt=0)
    """Least distance of the quartiles, as a share of the upper one."""
    least_classes: int = Field(5, ge=3)
    """Classes without which quartiles mean nothing."""

    @property
    def fewest_trusted(self) -> int:
        """It needs no images."""
        return 0

    def cannot(self, encoder: nn.Module, num_classes: int) -> str | None:
        """Return why there are no quartiles: there are too few classes."""
        return too_few("free_eagle", num_classes, self.least_classes)

    def scan(self, victim: Victim, clean: Split, rng: Generator) -> Suspicion:
        """Score the victim by the largest index of its classes; images lend their shape only.

        The facts are `index[k]` and `leaning[k]` of each class k, the class with the largest
        leaning, the mean loss of the outputs, and the outputs run forward and backward. The tensors
        are `similarity` (K x K: how the output of a row's class leans to a column's), `leaning`,
        `index` and `flagged` (K). Every worker does all. Raises Infeasible for too few classes,
        without a head, or where the network has no two stages of maps and no layer is named.
        """
        shape_CHW = clean.x_NCHW.shape[1:]
        probe_BCHW = torch.randint(0, 256, (PROBES, *shape_CHW), generator=rng, dtype=torch.uint8)
        count_classes("free_eagle", victim, probe_BCHW[:1], self.least_classes)
        layer = self._layer(victim, probe_BCHW)
        victim.to(group.device()).eval()
        with torch.no_grad(), reading(victim, [layer]) as seen:
            logits_BK = victim(group.to_device(probe_BCHW))
        shape = seen[layer].shape[1:]
        start_KD = torch.rand((logits_BK.shape[1], *shape), generator=rng)
        rest = tail(victim, layer, probe_BCHW)
        logits_KK = self.foreign(rest, start_KD, bool((seen[layer] >= 0).all()))

        own = torch.arange(len(logits_KK))
        similarity_KK = leanings(logits_KK, self.metric)
        leaning_K = similarity_KK.mean(0)
        index_K = anomaly(leaning_K, self.least_spread)
        loss = float(F.cross_entropy(logits_KK, own))
        sure = bool((logits_KK.argmax(1) == own).all())
        return Suspicion(
            index_K.max()[None],
            torch.tensor([self.threshold]),
            warning=None if sure else "free_eagle: some outputs miss their class: raise steps",
            facts={
                **{f"index[{k}]": float(index) for k, index in enumerate(index_K)},
                **{f"leaning[{k}]": float(leaning) for k, leaning in enumerate(leaning_K)},
                "suspected_class": float(leaning_K.argmax()),
                "loss": loss,
                "passes": float(self.steps * len(own)),
            },
            tensors={
                "similarity": similarity_KK,
                "leaning": leaning_K,
                "index": index_K,
                "flagged": index_K > self.threshold,
            },
        )

    def _layer(self, victim: Victim, probe_BCHW: Tensor) -> str:
        if self.layer is not None:
            if self.layer not in dict(victim.encoder.named_modules()):
                raise UserError(
                    f"free_eagle: the encoder has no module {self.layer!r}",
                    "Name one of its modules, like those of its weights.",
                    exit_code=1,
                )
            return self.layer
        found = stages(victim, probe_BCHW)
        if len(found) < 2:
            raise Infeasible("free_eagle needs two stages of feature maps: name a layer")
        return found[-2]

    def foreign(self, rest: Callable[[Tensor], Tensor], start_KD: Tensor, positive: bool) -> Tensor:
        """Return the logits (K x K) of outputs that were sought from a start, one for each class.

        `rest` maps outputs to logits.
        """
        own_K = group.to_device(torch.arange(len(start_KD)))
        free_KD = group.to_device(start_KD).clone().requires_grad_()
        adam = torch.optim.Adam([free_KD], self.lr, weight_decay=self.weight_decay)
        for _ in range(self.steps):
            # A sum: the classes do not touch each other, and each has its own loss.
            loss = F.cross_entropy(rest(free_KD).float(), own_K, reduction="sum")
            (free_KD.grad,) = torch.autograd.grad(loss, [free_KD])
            adam.step()
            if positive:
                with torch.no_grad():
                    free_KD.clamp_(min=0)
        with torch.no_grad():
            logits_KK: Tensor = rest(free_KD).float().cpu()
        return logits_KK


def leanings(logits_KK: Tensor, metric: Literal["softmax", "logits"]) -> Tensor:
    """Return how the output of a row's class leans to a column's; 0 to its own."""
    leaning_KK = logits_KK.softmax(1) if metric == "softmax" else logits_KK.clone()
    return leaning_KK.fill_diagonal_(0)


def anomaly(leaning_K: Tensor, least_spread: float) -> Tensor:
    """Return how far each leaning lies above the upper quartile, in distances of the quartiles.

    Quartiles are the values at the places int(n / 4) and int(3 n / 4), from 0.
    """
    sorted_K = leaning_K.sort().values
    lower = sorted_K[len(sorted_K) // 4]
    upper = sorted_K[3 * len(sorted_K) // 4]
    floor = (least_spread * upper.abs()).clamp_min(torch.finfo(leaning_K.dtype).eps)
    return (leaning_K - upper) / torch.maximum(upper - lower, floor)
