"""The contract that every detector keeps."""

import pickle
import sys
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from raybd.registry import method_class, names
from raybd.types.data import Split
from raybd.types.methods import Detector, StreamDetector
from raybd.types.verdicts import Suspicion
from tests.groups import in_group
from tests.small_scene import small_scene

KINDS = names("detectors")
SMALL: dict[str, dict[str, Any]] = {
    "abl_isolation": {"isolation_steps": 6, "batch_size": 30, "precision": "fp32"},
    "cognitive_distillation": {"steps": 5, "precision": "fp32"},
    "confusion_training": {
        "shares": (1, 0.5),
        "epochs": (1,),
        "steps": (4,),
        "batch_size": 30,
        "confusion_batch": 10,
        "precision": "fp32",
    },
    "flare": {"smallest": 10, "neighbours": 3},
    "asset": {"epochs": 2, "steps": 10, "batch_size": 32},
    "asset_inner": {"steps": 20, "batch_size": 32},
    "dede": {"epochs": 5, "width": 32, "encoder_depth": 1, "decoder_depth": 1},
    "sentinet": {"images": 5},
    "teco": {"corruptions": ("gaussian_noise", "motion_blur", "jpeg"), "draws": 2},
}
"""Fields that make a detector quick."""
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((kind, SMALL.get(kind, {})) for kind in KINDS),
    ("spectral", {"reference": "trusted"}),
    ("spectre", {"whiten": "trusted"}),
    ("cognitive_distillation", {**SMALL["cognitive_distillation"], "pool": "test"}),
    ("agpd", {"stop": "window"}),
    ("confusion_training", {**SMALL["confusion_training"], "flags": "trusted"}),
    ("activation_clustering", {"reduction": "pca", "suspect": "fewer_clean"}),
    ("strip", {"pool": "train"}),
    ("beatrix", {"groups": "clusters", "clusters": 3, "channels": 6}),
    ("strip_encoder", {"pool": "train", "overlays": 5, "strength": 0.5}),
    ("scale_up", {"pool": "train", "soft": False, "by_class": False, "threshold": 0.5}),
    ("ibd_psc", {"pool": "train", "threshold": 0.9}),
    ("ted", {"pool": "train", "ranks": "log"}),
]


def detector_of(kind: str, fields: dict[str, Any]) -> Detector:
    return cast(Detector, method_class("detectors", kind).model_validate(fields))


def score_small(kind: str, fields: dict[str, Any], order: Tensor | None = None) -> Suspicion:
    victim, suspects, clean = small_scene()
    return detector_of(kind, fields).score(
        victim,
        suspects if order is None else suspects.select(order),
        clean,
        torch.Generator().manual_seed(1),
    )


def copies(split: Split) -> tuple[Tensor, Tensor]:
    return split.x_NCHW.clone(), split.y_N.clone()


@pytest.mark.parametrize(("kind", "fields"), VARIANTS)
def test_scores_every_image_with_a_finite_number(kind: str, fields: dict[str, Any]) -> None:
    verdict = score_small(kind, fields)
    assert verdict.score_N.shape == (90,)
    assert verdict.threshold_N.expand(90).shape == (90,)
    assert torch.isfinite(verdict.score_N).all()
    assert torch.isfinite(verdict.threshold_N).all()
    assert all(isinstance(value, float) for value in verdict.facts.values())
    assert not verdict.oracle


@pytest.mark.parametrize(("kind", "fields"), VARIANTS)
def test_the_order_of_the_images_is_irrelevant(kind: str, fields: dict[str, Any]) -> None:
    order = torch.randperm(90, generator=torch.Generator().manual_seed(5))
    plain, shuffled = score_small(kind, fields), score_small(kind, fields, order)
    back = shuffled.score_N[torch.argsort(order)]
    assert torch.allclose(back.float(), plain.score_N.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("kind", "fields"), VARIANTS)
def test_the_same_seed_gives_the_same_scores_and_leaves_its_inputs_alone(
    kind: str, fields: dict[str, Any]
) -> None:
    victim, suspects, clean = small_scene()
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    images_before = [*copies(suspects), *copies(clean)]
    one = score_small(kind, fields)
    two = score_small(kind, fields)
    assert torch.equal(one.score_N, two.score_N)
    assert torch.equal(one.threshold_N, two.threshold_N)
    assert one.facts == two.facts

    images_after = [*copies(suspects), *copies(clean)]
    assert all(map(torch.equal, images_before, images_after))
    assert all(torch.equal(victim.state_dict()[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in victim.parameters())


def _score_all() -> list[Suspicion]:
    return [score_small(kind, fields) for kind, fields in VARIANTS]


def test_two_workers_score_as_one() -> None:
    alone = _score_all()
    for together in in_group(_score_all):
        for (kind, fields), one, two in zip(VARIANTS, alone, together, strict=True):
            assert torch.allclose(two.score_N.float(), one.score_N.float(), rtol=1e-2, atol=1e-3), (
                kind,
                fields,
            )


@pytest.mark.parametrize("kind", KINDS)
def test_cites_its_paper_and_documents_its_fields(kind: str) -> None:
    detector = method_class("detectors", kind)
    assert "arXiv" in (sys.modules[detector.__module__].__doc__ or "")
    assert all(info.description for info in detector.model_fields.values())
    assert detector.model_validate_json(detector().model_dump_json()) == detector()


@pytest.mark.parametrize(("kind", "fields"), VARIANTS)
def test_pickles(kind: str, fields: dict[str, Any]) -> None:
    detector = detector_of(kind, fields)
    assert pickle.loads(pickle.dumps(detector)) == detector


@pytest.mark.parametrize("kind", KINDS)
def test_declares_the_pools_that_its_field_allows(kind: str) -> None:
    detector = cast(type[Detector], method_class("detectors", kind))
    assert detector().scored_pool in detector.pools
    for pool in ("train", "test"):
        allowed = True
        try:
            asked = detector.model_validate({"pool": pool})
        except ValueError:
            allowed = False
        assert allowed == (pool in detector.pools)
        assert not allowed or asked.scored_pool == pool


@pytest.mark.parametrize(("kind", "fields"), VARIANTS)
def test_what_it_reads_of_the_suspects_decides_its_scores_and_nothing_else_does(
    kind: str, fields: dict[str, Any]
) -> None:
    detector = detector_of(kind, fields)
    victim, suspects, clean = small_scene()
    z_ND = torch.randn((90, 5), generator=torch.Generator().manual_seed(7))
    given = Split(suspects.x_NCHW, suspects.y_N, z_ND=z_ND)
    clean_D = Split(clean.x_NCHW, clean.y_N, z_ND=z_ND[:30])

    found = detector.score(victim, given, clean_D, torch.Generator().manual_seed(1)).score_N
    same = torch.equal(found, score_small(kind, fields).score_N)
    assert same == ("embedding" not in detector.reads)


@pytest.mark.parametrize(("kind", "fields"), VARIANTS)
def test_what_scores_a_stream_is_learned_once_and_scores_each_image_for_itself(
    kind: str, fields: dict[str, Any]
) -> None:
    detector = detector_of(kind, fields)
    if not isinstance(detector, StreamDetector):
        pytest.skip("it has nothing to learn before it sees the suspects")
    victim, suspects, clean = small_scene()
    judge = detector.learn(victim, clean, torch.Generator().manual_seed(1))
    first = judge(suspects.select(torch.arange(25)))
    rest = judge(suspects.select(torch.arange(25, 90)))
    whole = score_small(kind, fields)
    together_N = torch.cat([first.score_N, rest.score_N])
    assert torch.allclose(together_N, whole.score_N, rtol=1e-4, atol=1e-5)
    assert torch.equal(first.threshold_N, whole.threshold_N)
    assert torch.equal(rest.threshold_N, whole.threshold_N)
