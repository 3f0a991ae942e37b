"""A verdict is compared with the truth."""

from pathlib import Path

import torch

from raybd.attacks.data.badnets import BadNets
from raybd.cells import judging, pools
from raybd.cells.stage import random_stream
from raybd.types.data import Split
from raybd.types.verdicts import Suspicion
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
