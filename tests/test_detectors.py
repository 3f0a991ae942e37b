"""Detectors: the contract that every one keeps, what they find on a real poisoned victim, and the formulas."""

import sys
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from raybd import experiment_file, metrics, stages
from raybd.detectors.activation_clustering import ActivationClustering
from raybd.detectors.spectral import Spectral
from raybd.detectors.strip import Strip
from raybd.fit import new_victim
from raybd.networks.small_cnn import SmallCnn
from raybd.registry import method_class, names
from raybd.repairs.fine_tune import FineTune
from raybd.store import Store
from raybd.types import Dataset, Detector, Poisoned, Split, Suspicion, Victim
from tests.groups import in_group

KINDS = names("detectors")
SMALL: dict[str, dict[str, Any]] = {
    "asset": {"epochs": 2, "steps": 10, "batch_size": 32},
    "asset_inner": {"steps": 20, "batch_size": 32},
    "dede": {"epochs": 5, "width": 32, "encoder_depth": 1, "decoder_depth": 1},
}
"""Fields that make a detector quick."""
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((kind, SMALL.get(kind, {})) for kind in KINDS),
    ("spectral", {"reference": "trusted"}),
    ("activation_clustering", {"reduction": "pca", "suspect": "fewer_clean"}),
    ("strip", {"pool": "train"}),
]
Scene = tuple[Victim, Dataset, Poisoned]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A victim of badnets on digits that has learned its trigger."""
    return _scene(tmp_path_factory.mktemp("store"))


def _scene(folder: Path) -> Scene:
    asked = experiment_file.parse(
        {
            "name": "scene",
            "datasets": [{"kind": "digits", "clean": 0.1}],
            "attacks": [{"kind": "badnets", "rate": 0.1}],
            "trainers": [{"kind": "supervised", "network": "small_cnn", "epochs": 10, "lr": 0.05, "augment": "none"}],
        }
    )
    (cell,), store = asked.cells(), Store(str(folder))
    row = stages.run_cell(cell, store)
    assert row["clean_accuracy"] > 0.9
    assert row["attack_success"] > 0.9
    dataset = cast(Any, cell.dataset.config).load()
    victim = stages.load_victim(cell.last, store)
    return victim, dataset, stages.load_poisoned(cell.last.need("poison"), store)


@cache
def small_scene() -> tuple[Victim, Split, Split]:
    """An untrained victim, suspects and trusted images; cheap, for contracts."""
    rng = torch.Generator().manual_seed(0)
    suspects = Split(torch.randint(0, 256, (90, 3, 16, 16), generator=rng, dtype=torch.uint8), torch.arange(90) % 3)
    clean = Split(torch.randint(0, 256, (30, 3, 16, 16), generator=rng, dtype=torch.uint8), torch.arange(30) % 3)
    return new_victim(suspects, 3, SmallCnn(width=8), rng).eval(), suspects, clean


def score_small(kind: str, fields: dict[str, Any], order: torch.Tensor | None = None) -> Suspicion:
    victim, suspects, clean = small_scene()
    detector = cast(Detector, method_class("detectors", kind).model_validate(fields))
    return detector.score(victim, suspects if order is None else suspects.select(order), clean, torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("kind", "fields"), VARIANTS)
def test_scores_every_image_with_a_finite_number(kind: str, fields: dict[str, Any]) -> None:
    verdict = score_small(kind, fields)
    assert verdict.score_N.shape == (90,)
    assert verdict.threshold_N.expand(90).shape == (90,)
    assert torch.isfinite(verdict.score_N).all()
    assert torch.isfinite(verdict.threshold_N).all()
    assert not verdict.oracle


@pytest.mark.parametrize(("kind", "fields"), VARIANTS)
def test_the_order_of_the_images_is_irrelevant(kind: str, fields: dict[str, Any]) -> None:
    order = torch.randperm(90, generator=torch.Generator().manual_seed(5))
    plain, shuffled = score_small(kind, fields), score_small(kind, fields, order)
    back = shuffled.score_N[torch.argsort(order)]
    assert torch.allclose(back.float(), plain.score_N.float(), rtol=1e-3, atol=1e-4)


def _score_all() -> list[Suspicion]:
    return [score_small(kind, fields) for kind, fields in VARIANTS]


def test_two_workers_score_as_one() -> None:
    alone = _score_all()
    for together in in_group(_score_all):
        for (kind, fields), one, two in zip(VARIANTS, alone, together, strict=True):
            assert torch.allclose(two.score_N.float(), one.score_N.float(), rtol=1e-2, atol=1e-3), (kind, fields)


@pytest.mark.parametrize("kind", KINDS)
def test_cites_its_paper_and_documents_its_fields(kind: str) -> None:
    detector = method_class("detectors", kind)
    assert "arXiv" in (sys.modules[detector.__module__].__doc__ or "")
    assert all(info.description for info in detector.model_fields.values())
    assert detector.model_validate_json(detector().model_dump_json()) == detector()


def detection(detector: Detector, scene: Scene) -> dict[str, float | None]:
    victim, dataset, poisoned = scene
    pool = stages.make_pool(detector, victim, dataset, poisoned)
    verdict = detector.score(victim, pool.suspects, dataset.clean, torch.Generator().manual_seed(0))
    return metrics.detection(verdict.score_N, verdict.score_N > verdict.threshold_N, pool.role_N)


def test_spectral_with_trusted_images_finds_badnets(scene: Scene) -> None:
    found = detection(Spectral(reference="trusted"), scene)
    assert found["auroc"] is not None and found["tpr"] is not None and found["fpr"] is not None
    assert found["auroc"] > 0.95
    assert found["tpr"] > 0.8
    assert found["fpr"] < 0.06


def test_spectral_as_published_flags_its_share_of_every_class(scene: Scene) -> None:
    victim, dataset, poisoned = scene
    suspects = poisoned.over(dataset.train)
    verdict = Spectral(remove=0.15).score(victim, suspects, dataset.clean, torch.Generator())
    flagged = verdict.score_N > verdict.threshold_N
    for label in range(10):
        assert float(flagged[suspects.y_N == label].float().mean()) == pytest.approx(0.15, abs=0.02)


def test_activation_clustering_finds_badnets_among_trusted_images(scene: Scene) -> None:
    found = detection(ActivationClustering(reduction="pca", suspect="fewer_clean"), scene)
    assert found["auroc"] is not None and found["fpr"] is not None
    assert found["auroc"] > 0.6
    assert found["fpr"] < 0.05


def test_strip_finds_triggered_test_inputs(scene: Scene) -> None:
    found = detection(Strip(overlays=20), scene)
    assert found["auroc"] is not None and found["fpr"] is not None
    assert found["auroc"] > 0.8
    assert found["fpr"] < 0.1


def test_the_test_pool_holds_every_test_image_and_each_counted_one_with_the_trigger(scene: Scene) -> None:
    victim, dataset, poisoned = scene
    pool = stages.make_pool(Strip(), victim, dataset, poisoned)
    counted = int((dataset.test.y_N != 0).sum())
    assert len(pool.suspects) == len(dataset.test) + counted
    assert int((pool.role_N == 1).sum()) == counted
    assert torch.equal(pool.suspects.x_NCHW[: len(dataset.test)], dataset.test.x_NCHW)
    # A defender has no test labels: the suspects carry the victim's predictions, which for triggered images is the target.
    assert float((pool.suspects.y_N[pool.role_N == 1] == 0).float().mean()) > 0.9


def test_fine_tuning_lowers_attack_success(scene: Scene) -> None:
    victim, dataset, poisoned = scene
    before = stages.measure(victim, dataset, poisoned)
    weights = {name: value.clone() for name, value in victim.state_dict().items()}
    tuned = FineTune(epochs=30, lr=0.1, batch_size=32, augment="none").repair(
        victim, poisoned.over(dataset.train), dataset.clean, torch.Generator().manual_seed(0)
    )
    after = stages.measure(tuned, dataset, poisoned)
    assert before["attack_success"] is not None and after["attack_success"] is not None
    assert after["attack_success"] < before["attack_success"] - 0.5
    assert after["clean_accuracy"] is not None and after["clean_accuracy"] > 0.88
    assert all(torch.equal(victim.state_dict()[name], value) for name, value in weights.items())


def test_the_spectral_score_is_the_projection_on_the_top_singular_vector() -> None:
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.normal(size=(40, 6)))
    verdict = Spectral()._against_class(z, torch.zeros(40, dtype=torch.int64))
    centered = z.numpy() - z.numpy().mean(0)
    expected = np.abs(centered @ np.linalg.svd(centered)[2][0])
    assert verdict.score_N.numpy() == pytest.approx(expected, abs=1e-5)


def test_strip_is_the_mean_negative_entropy_of_the_blends() -> None:
    victim, suspects, clean = small_scene()
    overlays = clean.x_NCHW[:2]
    score = Strip()._negative_entropy(victim, suspects.x_NCHW[:3], overlays)
    expected = torch.zeros(3)
    for overlay in overlays:
        blend = (suspects.x_NCHW[:3].int() + overlay.int()).clamp(0, 255).to(torch.uint8)
        p = victim(blend).softmax(1)
        expected += (p * p.log()).sum(1) / 2
    assert torch.allclose(score, expected, atol=1e-5)
