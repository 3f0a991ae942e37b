"""A verdict is compared with the truth."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from raybd.attacks.data.badnets import BadNets
from raybd.cells import judging, pools
from raybd.cells.stage import random_stream
from raybd.detectors.spectral import Spectral
from raybd.types.data import POISON, Split
from raybd.types.verdicts import Suspicion
from tests.shared_victims import DIGITS, SharedVictims
from tests.tiny_cells import by_hand, given, purified


def test_what_the_trigger_covers_can_be_left_out_of_a_score() -> None:
    victim, dataset = by_hand()
    poisoned = BadNets(size=1, rate=0.3).poison(given(dataset), random_stream("poison", 0))
    pool = pools.test_pool(victim, dataset, poisoned)
    n = len(pool.suspects)
    parts = torch.zeros(n, 2, 2)
    parts[pool.role_N == 1, 1, 1] = 9  # the trigger itself
    parts[:, 0, 0] = torch.linspace(1, 0, n)  # triggered ones stand last
    found = judging.auroc_outside_trigger(
        Suspicion(parts.sum((1, 2)), torch.tensor(0.0), parts_NHW=parts), pool, dataset
    )
    assert found == 0.0
    everywhere = Suspicion(
        parts.sum((1, 2)), torch.tensor(0.0), parts_NHW=parts.sum((1, 2)).view(n, 1, 1)
    )
    assert judging.auroc_outside_trigger(everywhere, pool, dataset) is None


def test_pictures_show_the_same_images_without_and_with_the_trigger(tmp_path: Path) -> None:
    _, _, store, cell = purified(tmp_path)
    tensors = store.load("score", cell.suspicion.key).tensors
    assert tensors["picture.role"].tolist() == [0] * judging.PAIRS + [1] * judging.PAIRS
    clean, triggered = tensors["picture.input"].split(judging.PAIRS)
    assert torch.equal(clean[..., :4, :4], triggered[..., :4, :4])
    assert (triggered[..., -2:, -2:] == 255).all() and not (clean[..., -2:, -2:] == 255).all()


def test_score_threshold_and_truth_of_an_image_stay_together_whatever_the_order() -> None:
    """A detector that is given the images in another order is judged as one that is not."""
    rng = torch.Generator().manual_seed(0)
    score_N, threshold_N = torch.rand((2, 60), generator=rng)
    role_N = (torch.rand(60, generator=rng) < 0.3).to(torch.int8)
    suspects = Split(
        torch.randint(0, 256, (60, 3, 4, 4), generator=rng, dtype=torch.uint8), torch.arange(60) % 4
    )
    pool = pools.Pool(suspects, torch.arange(60), (torch.arange(60) + 1) % 4, role_N)
    plain, facts = judging.judge("x", Suspicion(score_N, threshold_N), pool)
    order = torch.randperm(60, generator=rng)
    verdict = Suspicion(score_N[order], threshold_N[order])
    shuffled, other = judging.judge("x", verdict, pool.shuffled(order), torch.argsort(order))
    assert facts == other
    assert plain.keys() == shuffled.keys()
    assert all(torch.equal(shuffled[name], tensor) for name, tensor in plain.items())
    assert torch.equal(plain["score_N"], score_N)
    assert torch.equal(plain["threshold_N"], threshold_N)
    assert torch.equal(plain["role_N"], role_N)
    assert torch.equal(plain["label_N"], suspects.y_N)
    assert facts["n_flagged"] == int((score_N > threshold_N).sum())


def verdict_on(score_N: torch.Tensor, threshold: float, role_N: torch.Tensor, train: bool) -> Any:
    """The facts about scores of as many gray images."""
    n = len(score_N)
    images = Split(torch.zeros((n, 3, 4, 4), dtype=torch.uint8), torch.zeros(n).long())
    pool = pools.Pool(images, torch.arange(n), images.y_N, role_N)
    verdict = Suspicion(score_N, torch.tensor(threshold), warning="its own")
    return judging.judge("by_hand", verdict, pool, labels_are_given=train)[1]


def test_a_row_warns_of_a_threshold_above_a_group_of_high_scores() -> None:
    score_N = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    score_N[:100] = score_N[:100] / 2 + 6
    role_N = torch.zeros(1000, dtype=torch.int8)
    role_N[:100] = POISON
    missed = verdict_on(score_N, 20, role_N, train=True)
    assert missed["auroc"] > 0.95 and missed["tpr"] == 0
    assert missed["warning"].startswith("its own; 10.0% of the scores form a group of their own")

    # The truth changes nothing, a lower threshold does.
    blind = verdict_on(score_N, 20, torch.zeros_like(role_N), train=True)
    assert blind["warning"] == missed["warning"]
    assert verdict_on(score_N, 3, role_N, train=True)["warning"] == "its own"
    assert verdict_on(score_N, 20, role_N, train=False)["warning"] == "its own"


def test_the_row_of_a_real_detector_warns_if_its_threshold_is_out_of_reach(
    shared: SharedVictims,
) -> None:
    trained = shared.classifier(DIGITS, {"kind": "badnets", "rate": 0.1})
    pool = pools.training_pool(trained.dataset, trained.poisoned)
    rng = random_stream("score", 0)
    detector = Spectral(reference="trusted")
    verdict = detector.score(trained.victim, pool.suspects, trained.dataset.clean, rng)
    found = judging.judge("spectral", verdict, pool)[1]
    assert found["tpr"] > 0.8 and found["warning"] is None
    beyond = replace(verdict, threshold_N=verdict.score_N.max())
    missed = judging.judge("spectral", beyond, pool)[1]
    assert missed["auroc"] > 0.95 and missed["tpr"] == 0
    assert "form a group of their own above the others" in missed["warning"]
