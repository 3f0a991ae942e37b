"""K-Arm: its choices by hand, one class at a time as in Neural Cleanse, and a backdoor it finds."""

from typing import Any

import pytest
import torch
from torch import Tensor

from raybd.scanners.k_arm import Arms, KArm, candidates
from raybd.scanners.neural_cleanse import NeuralCleanse
from raybd.scanners.neural_cleanse.search import TriggerSearch
from raybd.training.runtime import Runtime, running
from raybd.types.errors import Infeasible
from raybd.types.verdicts import Suspicion
from tests.scanners.classifiers import CLASSES, SIDE, classifier, some_images
from tests.small_scene import stream

SHAPE = torch.Size((3, SIDE, SIDE))


def scanned(strength: float, **fields: Any) -> Suspicion:
    quick = {"batch_size": 10, "patience": 2, "stop_after": 8, "pulls": 25, "rounds": 60}
    return KArm.model_validate({**quick, **fields}).scan(
        classifier(strength), some_images(), stream(1)
    )


def arms(likely: Tensor | None = None, **fields: Any) -> Arms:
    likely_K = torch.zeros(3, dtype=torch.bool) if likely is None else likely
    return Arms(KArm.model_validate(fields), likely_K, SHAPE, stream())


def after(norms: list[list[float]], likely: Tensor | None = None, **fields: Any) -> Arms:
    """Return arms that have found masks of these norms, one after the other."""
    made = arms(likely, **fields)
    for k, found in enumerate(norms):
        for norm in found:
            made.searches[k].norm_K[:] = norm
            made.pulled(k)
    return made


def test_candidates_are_among_the_first_choices_of_nearly_all_images() -> None:
    # 8 classes: the first choices are two. Class 5 is always second, class 0 first in 19 of 20.
    logits_NK = torch.zeros(20, 8)
    logits_NK[:, 5] = 1
    logits_NK[:19, 0] = 2
    logits_NK[19, 1] = 2
    assert candidates(logits_NK, 0.25, 0.95).nonzero().flatten().tolist() == [0, 5]
    assert candidates(logits_NK, 0.25, 0.96).nonzero().flatten().tolist() == [5]
    # Of four classes two are still looked at, of twelve three.
    assert candidates(logits_NK[:, 4:], 0.25, 0.95)[1]
    twelve_NK = torch.cat([logits_NK, torch.full((20, 4), -1.0)], 1)
    twelve_NK[:, 11] = 0.5
    assert candidates(twelve_NK, 0.25, 0.95).nonzero().flatten().tolist() == [0, 5, 11]


def test_a_reward_is_the_speed_of_shrinking_and_a_bonus_for_its_size() -> None:
    made = after([[40.0, 30.0, 20.0], [10.0], []])
    # Norms as on images of 224 x 224 pixels: these have 8 x 8.
    scale = 224 * 224 / 64
    expected = [scale * 20 / 2 + 1e4 / (scale * 20), 1e4 / (scale * 10), 0.0]
    assert made.rewards().tolist() == pytest.approx(expected)
    assert after([[40.0, 20.0]], bonus=0.0).rewards()[0] == pytest.approx(scale * 20)


def test_every_class_is_warmed_up_before_one_is_preferred() -> None:
    made = arms(warmup=2, explore=0.0)
    chosen = []
    for _ in range(6):
        chosen.append(made.choose(stream()))
        made.pulled(chosen[-1])
    assert chosen == [0, 1, 2, 0, 1, 2]


def test_the_next_round_goes_to_the_largest_reward() -> None:
    made = after([[40.0, 30.0], [40.0, 20.0], [40.0, 40.0]], explore=0.0)
    assert made.choose(stream()) == 1
    made.searches[1].ended_K[:] = True
    assert made.choose(stream()) == 0
    # What is at its last round has ended as well.
    made.pulls_K[0] = 1000
    assert made.choose(stream()) == 2
    assert made.ended_K.tolist() == [True, True, False]


def test_classes_that_seem_to_be_targets_come_first() -> None:
    likely = torch.tensor([False, False, True])
    made = after([[40.0, 30.0], [40.0, 20.0], [40.0, 40.0]], likely, explore=0.0)
    assert made.choose(stream()) == 2
    made.searches[2].ended_K[:] = True
    assert made.choose(stream()) == 1, "they do not exclude others"


def test_where_nothing_is_promised_the_least_searched_class_is_next() -> None:
    made = arms(explore=0.0, warmup=1)
    for k in (0, 0, 1, 2, 2):
        made.pulled(k)
    assert made.choose(stream()) == 1


def test_a_share_of_the_rounds_explores() -> None:
    made = after([[40.0, 30.0], [40.0, 20.0], [40.0, 40.0]], explore=0.3)
    rng = stream()
    chosen = [made.choose(rng) for _ in range(600)]
    # A random class is the preferred one in a third of the cases.
    assert chosen.count(1) / 600 == pytest.approx(0.8, abs=0.06)
    assert chosen.count(0) / 600 == pytest.approx(0.1, abs=0.04)
    always = after([[40.0, 30.0], [40.0, 20.0], [40.0, 40.0]], explore=1.0)
    assert {always.choose(rng) for _ in range(50)} == {0, 1, 2}


def test_the_search_of_one_class_is_that_of_neural_cleanse() -> None:
    victim, x = classifier(20.0), some_images().x_NCHW
    fields = NeuralCleanse(batch_size=20, patience=1)
    alone = TriggerSearch(fields, torch.tensor([3]), SHAPE, stream())
    together = TriggerSearch(fields, torch.arange(CLASSES), SHAPE, stream())
    with torch.no_grad():
        for one, many in zip(alone.free, together.free, strict=True):
            many[3] = one[0]
    for _ in range(30):
        for search in (alone, together):
            search.step(victim, x, len(x))
            search.end_round()
    assert torch.allclose(alone.free[0][0], together.free[0][3], atol=1e-3)
    assert float(alone.norm_K[0]) == pytest.approx(float(together.norm_K[3]), rel=1e-3)
    assert alone.passes == 30 * len(x)


def test_it_finds_the_target_of_a_backdoor() -> None:
    found, clean = scanned(60.0, pulls=60), scanned(0.0, pulls=60)
    assert found.facts["smallest_class"] == 2
    assert (found.score_N > found.threshold_N).all()
    assert not (clean.score_N > clean.threshold_N).any()
    assert found.tensors["flagged"].tolist() == [k == 2 for k in range(CLASSES)]
    assert found.tensors["mask"].shape == (CLASSES, SIDE, SIDE)
    assert found.tensors["mask"][2, -1, -1] == found.tensors["mask"][2].max()
    assert found.warning is None


def test_all_classes_have_one_number_of_rounds_together() -> None:
    told: list[Any] = []
    with running(Runtime(report=told.append)):
        found = scanned(60.0, pulls=6)
    chosen = [one["arm"] for one in told]
    assert found.facts["passes"] == 20 * len(told) == 20 * 6 * CLASSES
    assert chosen[: 2 * CLASSES] == [*range(CLASSES), *range(CLASSES)]


def test_it_warns_where_most_searches_were_cut_short() -> None:
    found = scanned(60.0, pulls=12, reached=0.5, explore=0.0)
    assert found.warning is not None
    assert "cut short" in found.warning or "no trigger reaches" in found.warning
    assert scanned(60.0, rounds=6, pulls=12, reached=0.3).warning is None


def test_a_resumed_search_ends_where_the_whole_one_does() -> None:
    kept: list[bytes] = []

    def save(name: str, data: bytes) -> None:
        kept.append(data)

    with running(Runtime(save=save, every_seconds=0)):
        whole = scanned(60.0, pulls=8)
    halfway = kept[len(kept) // 2]
    with running(Runtime(load=lambda name: halfway)):
        resumed = scanned(60.0, pulls=8)
    assert resumed.facts == whole.facts


def test_its_errors_carry_its_name() -> None:
    with pytest.raises(Infeasible, match="k_arm compares classes"):
        KArm(least_classes=7).scan(classifier(0.0), some_images(), stream())
