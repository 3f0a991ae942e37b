"""The losses of the self-supervised trainers, term by term as in their papers."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.networks.small_cnn import SmallCnn
from raybd.trainers.self_supervised import byol, moco, simsiam, supcon
from raybd.training import self_supervised
from raybd.training.contrast import contrast
from raybd.training.runtime import Runtime
from tests.some_images import some_images
from tests.trainers.making import train, trainer


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b / a.norm() / b.norm()).detach())


def nt_xent(p: Tensor, partner: list[int], temperature: float) -> float:
    """Chen et al., equation 1, term by term."""
    total = 0.0
    for i in range(len(p)):
        others = sum(math.exp(cosine(p[i], p[k]) / temperature) for k in range(len(p)) if k != i)
        total -= math.log(math.exp(cosine(p[i], p[partner[i]]) / temperature) / others)
    return total / len(p)


class Replay:
    """The first step of a training: its network, its head and their views, from the same stream."""

    def __init__(self, kind: str, heads: Any, **fields: Any) -> None:
        self.config, split, self.rng = (
            trainer(kind, epochs=1, batch_size=8, **fields),
            some_images(8),
            torch.Generator().manual_seed(7),
        )
        self.losses: list[float] = []
        train(
            kind,
            split,
            epochs=1,
            batch_size=8,
            runtime=Runtime(report=lambda f: self.losses.append(f["loss"])),
            **fields,
        )
        self.victim = self.config.encoder(split, 4, SmallCnn(width=4), self.rng)
        self.heads = self_supervised.seeded(lambda: heads(self), self.rng)
        self.after_heads()
        order = torch.randperm(8, generator=self.rng)
        self.y = split.y_N[order].repeat(2)
        self.views = self.config.views.pair(split.x_NCHW[order], 8, self.rng)
        self.z = self.victim.train().embed(self.views).detach()

    def after_heads(self) -> None:
        """What else is drawn before the first batch."""


PARTNER = [(i + 8) % 16 for i in range(16)]


def test_simclr_is_nt_xent() -> None:
    from lightly.models.modules.heads import SimCLRProjectionHead

    seen = Replay(
        "simclr", lambda _: SimCLRProjectionHead(16, 16, 128, batch_norm=False), temperature=0.3
    )
    assert seen.losses == [pytest.approx(nt_xent(seen.heads(seen.z), PARTNER, 0.3), abs=1e-4)]


def test_simsiam_is_a_symmetric_negative_cosine() -> None:
    seen = Replay("simsiam", lambda _: simsiam.Heads(16, 8, 16))
    z, p = seen.heads(seen.z)
    assert seen.losses == [
        pytest.approx(-sum(cosine(p[i], z[PARTNER[i]]) for i in range(16)) / 16, abs=1e-4)
    ]


def test_byol_predicts_its_slow_copy() -> None:
    seen = Replay("byol", lambda self: byol.Heads(self.victim.encoder, 16, 16, 8, 0.9, None))
    p = seen.heads(seen.z)
    target = seen.heads.target.project(seen.victim.preprocess(seen.views), 8)
    assert seen.losses == [
        pytest.approx(-sum(cosine(p[i], target[PARTNER[i]]) for i in range(16)) / 16, abs=1e-4)
    ]


def test_moco_contrasts_with_its_queue() -> None:
    from lightly.loss import NTXentLoss

    class WithQueue(Replay):
        def after_heads(self) -> None:
            self.queue = self_supervised.seeded(
                lambda: NTXentLoss(0.2, (64, 128)), self.rng
            ).memory_bank.bank.clone()

    seen = WithQueue(
        "moco", lambda self: moco.Heads(self.victim.encoder, 16, 128, 0.9), temperature=0.2
    )
    key, query = (
        seen.heads.target.project(seen.victim.preprocess(seen.views), 8),
        seen.heads(seen.z),
    )
    total = 0.0
    for i in range(16):
        positive = math.exp(cosine(query[i], key[PARTNER[i]]) / 0.2)
        total -= math.log(
            positive / (positive + sum(math.exp(cosine(query[i], old) / 0.2) for old in seen.queue))
        )
    assert seen.losses == [pytest.approx(total / 16, abs=1e-4)]


def test_supcon_is_its_equation() -> None:
    seen = Replay("supcon", lambda _: supcon.Heads(16, 128, 4), temperature=0.3, cross_entropy=0.5)
    p, logits = seen.heads(seen.z)
    total = 0.0
    for i in range(16):
        all_others = sum(math.exp(cosine(p[i], p[a]) / 0.3) for a in range(16) if a != i)
        alike = [j for j in range(16) if j != i and seen.y[j] == seen.y[i]]
        total -= sum(
            math.log(math.exp(cosine(p[i], p[j]) / 0.3) / all_others) for j in alike
        ) / len(alike)
    assert seen.losses == [
        pytest.approx(total / 16 + 0.5 * F.cross_entropy(logits, seen.y).item(), abs=1e-4)
    ]


def test_supcon_with_one_image_of_each_class_is_simclr() -> None:
    p_BD = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    y_B = torch.arange(4).repeat(2)
    assert float(contrast(p_BD, y_B, 0.5)) == pytest.approx(
        nt_xent(p_BD, [4, 5, 6, 7, 0, 1, 2, 3], 0.5), abs=1e-5
    )
