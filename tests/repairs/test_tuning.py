"""Repairs that learn what the victim says of trusted images, instead of their labels."""

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from raybd.networks.small_cnn import SmallCnn
from raybd.repairs._tuning import Targets, divergence
from raybd.repairs.fine_pruning import FinePruning
from raybd.repairs.fine_tune import FineTune
from raybd.repairs.ft_sam import FtSam
from raybd.repairs.ibau import Ibau
from raybd.repairs.mcr import Mcr
from raybd.repairs.nad import Nad
from raybd.repairs.neural_cleanse import NeuralCleanse
from raybd.repairs.sau import Sau
from raybd.trainers.supervised import Supervised
from raybd.training.inference import infer
from raybd.types.data import Split
from raybd.types.models import Victim

TRAINER = Supervised(epochs=8, lr=0.05, batch_size=32, augment="none", precision="fp32")


def stream(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


def bright_or_dark(n: int, seed: int) -> Split:
    """Return noise that is darker (class 0) or brighter (class 1)."""
    x_NCHW = torch.randint(0, 160, (n, 3, 16, 16), generator=stream(seed))
    y_N = torch.arange(n) % 2
    x_NCHW[y_N == 1] += 60
    return Split(x_NCHW.to(torch.uint8), y_N)


@cache
def victim() -> Victim:
    return TRAINER.train(bright_or_dark(200, 0), 2, SmallCnn(width=8), stream(0))


def test_the_divergence_is_that_of_the_formula() -> None:
    # One half each against 3/4 and 1/4.
    logits_BK = torch.zeros(1, 2)
    said_BK = torch.tensor([[math.log(3.0), 0.0]])
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(divergence(logits_BK, said_BK, 1)) == pytest.approx(by_hand, abs=1e-6)
    # At temperature 2 the odds of 3 are those of their root.
    p = math.sqrt(3) / (1 + math.sqrt(3))
    softer = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert float(divergence(logits_BK, said_BK, 2)) == pytest.approx(4 * softer, abs=1e-6)


def test_what_the_victim_says_already_costs_nothing() -> None:
    logits_BK = torch.randn(5, 4, generator=stream(1))
    # Softmax knows no common offset.
    assert float(divergence(logits_BK + 3, logits_BK, 4).abs().max()) < 1e-5


def test_labels_are_the_default() -> None:
    logits_BK = torch.randn(3, 4, generator=stream(2))
    y_B = torch.tensor([0, 3, 1])
    wanted = torch.nn.functional.cross_entropy(logits_BK, y_B, reduction="none")
    assert Targets().said(victim(), bright_or_dark(4, 1).x_NCHW) is None
    assert torch.equal(Targets().losses(logits_BK, y_B, None), wanted)


TUNING = {"epochs": 4, "lr": 0.05, "batch_size": 32, "precision": "fp32"}
REPAIRS: list[tuple[type[Any], dict[str, Any]]] = [
    (FineTune, TUNING),
    (FinePruning, {**TUNING, "share": 0.1}),
    (FtSam, {**TUNING, "rho": 0.1}),
    (Nad, {**TUNING, "beta": (1.0,), "teacher_epochs": 4}),
    (Mcr, {**TUNING, "end_epochs": 4, "end_lr": 0.05, "t": 0.9}),
    (Sau, {**TUNING, "radius": 0.01, "optimizer": "sgd"}),
    (Ibau, {"rounds": 2, "lr": 3e-3, "batch_size": 32, "search_lr": 0.1}),
]


def agreement(repaired: Victim, seen: Tensor) -> float:
    """Return the share of images of which a network says what the victim says."""
    same_N = infer(repaired, seen).argmax(1) == infer(victim(), seen).argmax(1)
    return float(same_N.float().mean())


def relabelled(n: int) -> Split:
    """Return images with the labels of the other class."""
    clean = bright_or_dark(n, 1)
    return Split(clean.x_NCHW, 1 - clean.y_N)


@pytest.mark.parametrize(("kind", "fields"), REPAIRS, ids=lambda one: getattr(one, "__name__", ""))
def test_the_victims_predictions_are_learned_and_labels_are_not(
    kind: type[Any], fields: dict[str, Any]
) -> None:
    seen = bright_or_dark(100, 2).x_NCHW
    clean = relabelled(160)
    taught = kind(**fields, targets="victim").repair(victim(), clean, clean, stream(1))
    assert agreement(taught.victim, seen) > 0.95


def test_labels_would_have_been_learned() -> None:
    seen = bright_or_dark(100, 2).x_NCHW
    clean = relabelled(160)
    told = FineTune(**TUNING).repair(victim(), clean, clean, stream(1))
    assert agreement(told.victim, seen) < 0.05


def test_a_recovered_trigger_does_not_teach_its_class() -> None:
    clean = bright_or_dark(160, 1)
    # Of images with the trigger, all white, the victim says class 1.
    found = {
        "mask": torch.ones(2, 16, 16),
        "pattern": torch.ones(2, 3, 16, 16),
        "norm": torch.tensor([200.0, 1.0]),
        "index": torch.tensor([0.0, 5.0]),
        "flagged": torch.tensor([False, True]),
    }
    repair = NeuralCleanse(**{**TUNING, "epochs": 20}, targets="victim", share=0.5)
    repaired = repair.repair_with(found, victim(), clean, clean, stream(1)).victim
    white_1CHW = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    assert float(infer(victim(), white_1CHW).softmax(1)[0, 1]) > 0.99
    # Half of the images that wear it were of class 0 before.
    assert float(infer(repaired, white_1CHW).softmax(1)[0, 1]) < 0.9
