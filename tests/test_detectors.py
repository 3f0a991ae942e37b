"""Detectors: the contract that every one keeps, what they find on a real poisoned victim, and the formulas."""

import sys
from dataclasses import replace
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score
from torch import nn

from raybd.detectors import beatrix
from raybd.detectors.activation_clustering import ActivationClustering, silhouette
from raybd.detectors.beatrix import Beatrix
from raybd.detectors.spectral import Spectral
from raybd.detectors.strip import Strip
from raybd.detectors.strip_encoder import StripEncoder
from raybd.metrics import detection
from raybd.networks.small_cnn import SmallCnn
from raybd.networks.small_resnet import SmallResnet
from raybd.registry import method_class, names
from raybd.repairs.fine_tune import FineTune
from raybd.stages import all as stages
from raybd.training.models import new_victim
from raybd.types.data import Dataset, Poisoned, Split
from raybd.types.errors import UserError
from raybd.types.methods import Detector, StreamDetector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion
from tests.groups import in_group
from tests.shared_victims import BADENCODER, DIGITS, SharedVictims, loaded

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
    ("beatrix", {"groups": "clusters", "clusters": 3, "channels": 6}),
    ("strip_encoder", {"pool": "train", "overlays": 5, "strength": 0.5}),
]
Scene = tuple[Victim, Dataset, Poisoned]


@pytest.fixture(scope="module")
def scene(shared: SharedVictims) -> Scene:
    """A victim of badnets on digits that has learned its trigger."""
    trained = shared.classifier(DIGITS, {"kind": "badnets", "rate": 0.1})
    assert trained.clean_accuracy > 0.9
    assert trained.attack_success is not None and trained.attack_success > 0.9
    return trained.victim, trained.dataset, trained.poisoned


@cache
def small_scene() -> tuple[Victim, Split, Split]:
    """An untrained victim, suspects and trusted images; cheap, for contracts."""
    rng = torch.Generator().manual_seed(0)
    suspects = Split(
        torch.randint(0, 256, (90, 3, 16, 16), generator=rng, dtype=torch.uint8),
        torch.arange(90) % 3,
    )
    clean = Split(
        torch.randint(0, 256, (30, 3, 16, 16), generator=rng, dtype=torch.uint8),
        torch.arange(30) % 3,
    )
    return new_victim(suspects, 3, SmallCnn(width=8), rng).eval(), suspects, clean


def score_small(kind: str, fields: dict[str, Any], order: torch.Tensor | None = None) -> Suspicion:
    victim, suspects, clean = small_scene()
    detector = cast(Detector, method_class("detectors", kind).model_validate(fields))
    return detector.score(
        victim,
        suspects if order is None else suspects.select(order),
        clean,
        torch.Generator().manual_seed(1),
    )


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
def test_what_scores_a_stream_is_learned_once_and_scores_each_image_for_itself(
    kind: str, fields: dict[str, Any]
) -> None:
    detector = method_class("detectors", kind).model_validate(fields)
    if not isinstance(detector, StreamDetector):
        pytest.skip("it has nothing to learn before it sees the suspects")
    victim, suspects, clean = small_scene()
    judge = detector.learn(victim, clean, torch.Generator().manual_seed(1))
    first, rest = (
        judge(suspects.select(torch.arange(25))),
        judge(suspects.select(torch.arange(25, 90))),
    )
    whole = score_small(kind, fields)
    assert torch.allclose(
        torch.cat([first.score_N, rest.score_N]), whole.score_N, rtol=1e-4, atol=1e-5
    )
    assert torch.equal(first.threshold_N, whole.threshold_N)
    assert torch.equal(rest.threshold_N, whole.threshold_N)


def evaluate(detector: Detector, scene: Scene) -> dict[str, float | None]:
    victim, dataset, poisoned = scene
    pool = stages.make_pool(detector, victim, dataset, poisoned)
    verdict = detector.score(victim, pool.suspects, dataset.clean, torch.Generator().manual_seed(0))
    return detection.detection(verdict.score_N, verdict.score_N > verdict.threshold_N, pool.role_N)


def test_spectral_with_trusted_images_finds_badnets(scene: Scene) -> None:
    found = evaluate(Spectral(reference="trusted"), scene)
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
    found = evaluate(ActivationClustering(reduction="pca", suspect="fewer_clean"), scene)
    assert found["auroc"] is not None and found["fpr"] is not None
    assert found["auroc"] > 0.6
    assert found["fpr"] < 0.05


def test_strip_finds_triggered_test_inputs(scene: Scene) -> None:
    found = evaluate(Strip(overlays=20), scene)
    assert found["auroc"] is not None and found["fpr"] is not None
    assert found["auroc"] > 0.8
    assert found["fpr"] < 0.1


def test_beatrix_finds_triggered_test_inputs(scene: Scene) -> None:
    found = evaluate(Beatrix(), scene)
    assert found["auroc"] is not None and found["fpr"] is not None
    assert found["auroc"] > 0.9
    assert found["fpr"] < 0.2


Twins = tuple[Victim, Victim, Dataset, Poisoned]


@pytest.fixture(scope="module")
def twins(small_cifar10: dict[str, Any], shared: SharedVictims) -> Twins:
    """An encoder with the backdoor of badencoder, its clean twin, and 300 test images."""
    clean = shared.clean_encoder(small_cifar10)
    poisoned, backdoored = shared.infected_encoder(small_cifar10, BADENCODER)
    dataset = loaded(small_cifar10)
    few = replace(dataset, test=dataset.test.select(torch.arange(300)))
    return backdoored, clean, few, poisoned


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    "detector",
    [Beatrix(), StripEncoder(overlays=10, fpr=0.05)],
    ids=lambda detector: type(detector).__name__,
)
def test_encoders_betray_a_trigger_that_their_clean_twin_does_not_know(
    detector: Detector, twins: Twins
) -> None:
    backdoored, clean, dataset, poisoned = twins
    found, control = (
        evaluate(detector, (victim, dataset, poisoned))["auroc"] for victim in (backdoored, clean)
    )
    assert found is not None and control is not None
    assert found > 0.8
    assert found > control + 0.2


def test_the_test_pool_holds_every_test_image_and_each_counted_one_with_the_trigger(
    scene: Scene,
) -> None:
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


@pytest.mark.parametrize("sizes", [(40, 25), (30, 1), (12, 0)])
def test_the_silhouette_is_that_of_its_definition(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    part_ND = np.concatenate(
        [rng.normal(shift, 1, (size, 3)) for shift, size in zip((0, 2), sizes, strict=True)]
    )
    cluster_N = np.repeat([0, 1], sizes).astype(np.int32)
    expected = silhouette_score(part_ND, cluster_N) if all(sizes) else 0.0
    assert silhouette(part_ND, cluster_N) == pytest.approx(expected)


def test_clustering_keeps_no_direction_in_which_nothing_varies() -> None:
    rng = torch.Generator().manual_seed(0)
    spread_ND = torch.randn((60, 3), generator=rng) @ torch.randn((3, 8), generator=rng)
    suspects = Split(
        torch.zeros((60, 3, 4, 4), dtype=torch.uint8),
        torch.zeros(60, dtype=torch.int64),
        z_ND=spread_ND,
    )
    victim = small_scene()[0]
    few, many = (
        ActivationClustering(components=kept)
        .score(victim, suspects, suspects, torch.Generator())
        .score_N
        for kept in (3, 8)
    )
    assert torch.allclose(few, many)


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


def test_strip_for_encoders_is_the_mean_cosine_of_each_two_blends() -> None:
    victim, suspects, clean = small_scene()
    overlays = clean.x_NCHW[:4]
    score = StripEncoder(strength=0.5)._mean_cosine(victim, suspects.x_NCHW[:3], overlays)
    for one, x in zip(score, suspects.x_NCHW[:3], strict=True):
        z = victim.embed((x.float() + 0.5 * overlays).clamp(0, 255))
        pairs = [torch.cosine_similarity(z[i], z[j], 0) for i in range(4) for j in range(i)]
        assert float(one) == pytest.approx(float(sum(pairs)) / 6, abs=1e-5)


def test_an_entry_of_a_gram_matrix_is_the_root_of_a_sum_of_powers_with_its_sign() -> None:
    f = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    for order in (1, 2, 3, 8):
        found = beatrix.gram(f, order)[1]
        expected = [
            float((f[1, i].double() ** order * f[1, j].double() ** order).sum())
            for i in range(3)
            for j in range(i, 3)
        ]
        assert found.tolist() == pytest.approx(
            [np.sign(v) * abs(v) ** (1 / order) for v in expected], rel=1e-5
        )
    assert torch.isfinite(beatrix.gram(1000 * f, 8)).all()


def _deviation(f: torch.Tensor, same: torch.Tensor, detector: Beatrix) -> float:
    """The formula of the paper for one image, C x T, against clean images of its group."""
    total, entries = 0.0, f.shape[0] * (f.shape[0] + 1) / 2
    for order in range(1, detector.orders + 1):
        known = beatrix.gram(same, order).numpy()
        own = beatrix.gram(f[None], order)[0].numpy()
        median = np.sort(known, 0)[(len(known) - 1) // 2]
        spread = np.sort(np.abs(known - median), 0)[(len(known) - 1) // 2]
        low, high = median - detector.reach * spread, median + detector.reach * spread
        total += (
            np.maximum(low - own, 0) / np.abs(low) + np.maximum(own - high, 0) / np.abs(high)
        ).sum()
    return total / entries / detector.orders


def test_beatrix_sums_what_lies_outside_of_the_range_of_the_group() -> None:
    rng = torch.Generator().manual_seed(0)
    clean, suspects = (
        torch.rand((20, 4, 6), generator=rng) + 0.5,
        3 * torch.rand((5, 4, 6), generator=rng),
    )
    group = torch.arange(20) % 2
    detector = Beatrix(reach=1.5, floor=1e-9, orders=4)
    usual = detector._statistics(clean, group)
    given = torch.tensor([0, 1, 0, 1, 0])
    found = usual.deviation(suspects, given)
    for row, which in enumerate(given.tolist()):
        assert float(found[row]) == pytest.approx(
            _deviation(suspects[row], clean[group == which], detector), rel=1e-3
        )
    larger = detector._statistics(1e6 * clean, group).deviation(1e6 * suspects, given)
    assert torch.allclose(larger, found, rtol=1e-3), "the unit of the activations plays no part"


def test_beatrix_holds_small_and_unknown_groups_against_all_images() -> None:
    rng = torch.Generator().manual_seed(0)
    clean, suspects = (
        torch.rand((20, 4, 6), generator=rng),
        3 * torch.rand((3, 4, 6), generator=rng),
    )
    group = torch.tensor([0] * 17 + [2] * 3)
    usual = Beatrix(fewest=5)._statistics(clean, group)
    one, small, unknown = (
        usual.deviation(suspects, torch.full((3,), which)) for which in (0, 2, 7)
    )
    assert torch.equal(small, unknown)
    assert not torch.equal(small, one)


@pytest.mark.parametrize(
    ("network", "last"), [(SmallCnn(width=8), None), (SmallResnet(width=4), "6")]
)
def test_beatrix_finds_the_last_map_and_takes_another_by_name(
    network: Any, last: str | None
) -> None:
    victim = new_victim(small_scene()[1], 3, network, torch.Generator().manual_seed(0)).eval()
    x = small_scene()[1].x_NCHW[:2]
    name = beatrix._last_map(victim, x)
    assert last in (None, name)
    with torch.no_grad():
        f, z = beatrix._watch(victim, name, victim.embed, x)
    assert f.ndim == 3 and f.shape[2] > 1
    assert torch.equal(z, victim.embed(x))
    assert not any(module._forward_hooks for module in victim.modules())
    with pytest.raises(UserError, match="no module 'nowhere'"):
        Beatrix(layer="nowhere").score(victim, *small_scene()[1:], torch.Generator())


def test_beatrix_takes_tokens_for_positions() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.norm = nn.Conv2d(3, 5, 4, 4), nn.LayerNorm(5)

        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            tokens_BTD = self.norm(self.patches(x_BCHW).flatten(2).mT)
            return tokens_BTD.mean(1)

    victim = Victim(Tokens(), None, torch.zeros(3), torch.ones(3)).eval()
    _, suspects, clean = small_scene()
    assert beatrix._last_map(victim, clean.x_NCHW[:2]) == "norm"
    with torch.no_grad():
        assert beatrix._watch(victim, "norm", victim.embed, clean.x_NCHW[:2])[0].shape == (2, 5, 16)
    assert torch.isfinite(
        Beatrix().score(victim, suspects, clean, torch.Generator().manual_seed(0)).score_N
    ).all()
