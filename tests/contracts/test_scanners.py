"""The contract that every scanner keeps."""

import pickle
import sys
from functools import cache
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from raybd.networks.small_cnn import SmallCnn
from raybd.registry import method_class, names
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.methods import Scanner
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion
from tests.groups import in_group
from tests.small_scene import images, stream

KINDS = names("scanners")
SMALL: dict[str, dict[str, Any]] = {
    "decree": {"images": 20, "batch_size": 10, "epochs": 15, "reached": 0.9},
    "bti_dbf": {
        "batch_size": 10,
        "mask_epochs": 2,
        "pretrain_epochs": 2,
        "trigger_epochs": 2,
        "width": 4,
        "depth": 1,
        "least_classes": 3,
    },
    "k_arm": {"images": 20, "batch_size": 10, "pulls": 4, "least_classes": 3},
    "free_eagle": {"steps": 20, "least_classes": 3},
    "mm_bd": {"starts": 4, "steps": 20, "least_classes": 3},
    "neural_cleanse": {"images": 20, "batch_size": 10, "rounds": 8, "least_classes": 3},
}
"""Fields that make a scanner quick."""
OF_CLASSIFIERS = {"bti_dbf", "free_eagle", "k_arm", "mm_bd", "neural_cleanse"}
"""Scanners that compare classes, and so say nothing of an encoder."""


@cache
def some_images() -> Split:
    return Split(images(30), torch.arange(30) % 3)


def untrained(headless: bool = False) -> Victim:
    victim = new_victim(some_images(), 3, SmallCnn(width=8), stream()).eval()
    if headless:
        victim.head = None
    return victim


def scanned(kind: str, victim: Victim, clean: Split | None = None, seed: int = 1) -> Suspicion:
    scanner = cast(Scanner, method_class("scanners", kind).model_validate(SMALL.get(kind, {})))
    return scanner.scan(victim, clean or some_images(), stream(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("headless", [False, True])
def test_gives_one_finite_score_and_shows_what_it_found(kind: str, headless: bool) -> None:
    if headless and kind in OF_CLASSIFIERS:
        with pytest.raises(Infeasible):
            scanned(kind, untrained(headless))
        return
    verdict = scanned(kind, untrained(headless))
    assert verdict.score_N.shape == verdict.threshold_N.shape == (1,)
    assert torch.isfinite(verdict.score_N).all()
    assert torch.isfinite(verdict.threshold_N).all()
    assert not verdict.oracle
    assert all(isinstance(value, float) for value in verdict.facts.values())
    assert "rows" not in verdict.pictures
    for picture in verdict.pictures.values():
        assert picture.dtype == torch.uint8
        assert len(picture) and picture.shape[1:] == (3, 16, 16)
    for tensor in verdict.tensors.values():
        assert torch.isfinite(tensor).all()
        assert not tensor.requires_grad


def tensors_of(verdict: Suspicion) -> dict[str, Tensor]:
    return {**verdict.pictures, **{f"{name} found": t for name, t in verdict.tensors.items()}}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_stream_gives_the_same_result(kind: str) -> None:
    one, two, other = (scanned(kind, untrained(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.score_N, two.score_N)
    assert one.facts == two.facts
    again = tensors_of(two)
    assert all(torch.equal(tensor, again[name]) for name, tensor in tensors_of(one).items())
    assert one.facts != other.facts


@pytest.mark.parametrize("kind", KINDS)
def test_leaves_the_victim_and_the_images_as_they_are(kind: str) -> None:
    victim = untrained()
    next(victim.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    flags = [parameter.requires_grad for parameter in victim.parameters()]
    x_NCHW = some_images().x_NCHW.clone()

    scanned(kind, victim)
    assert all(torch.equal(victim.state_dict()[name], value) for name, value in before.items())
    assert [parameter.requires_grad for parameter in victim.parameters()] == flags
    assert all(parameter.grad is None for parameter in victim.parameters())
    assert not victim.training
    assert torch.equal(some_images().x_NCHW, x_NCHW)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_play_no_part(kind: str) -> None:
    other = Split(some_images().x_NCHW, torch.zeros(30, dtype=torch.int64))
    assert scanned(kind, untrained()).facts == scanned(kind, untrained(), other).facts


@pytest.mark.parametrize("kind", KINDS)
def test_cites_its_paper_and_documents_its_fields(kind: str) -> None:
    scanner = method_class("scanners", kind)
    assert "arXiv" in (sys.modules[scanner.__module__].__doc__ or "")
    assert all(info.description for info in scanner.model_fields.values())
    assert scanner.model_validate_json(scanner().model_dump_json()) == scanner()
    assert pickle.loads(pickle.dumps(scanner())) == scanner()


def _scan_all() -> list[Suspicion]:
    return [scanned(kind, untrained()) for kind in KINDS]


def test_two_workers_scan_as_one() -> None:
    alone = _scan_all()
    first, second = in_group(_scan_all)
    for one, here, there in zip(alone, first, second, strict=True):
        assert torch.equal(here.score_N, there.score_N)
        assert torch.allclose(here.score_N, one.score_N, atol=1e-2)
