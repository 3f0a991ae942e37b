"""Hidden trigger: its matching, its bound, and which images it keeps."""

from itertools import permutations

import pytest
import torch

from raybd.attacks.surrogate.hidden_trigger import HiddenTrigger, closest_first
from raybd.training.inference import infer
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from tests.attacks.making import poison_with, stream, twin

QUICK = {"rate": 0.05, "candidates": 2.0, "steps": 60}


def _greedy(distance: torch.Tensor) -> list[int]:
    """Of all one-to-one matchings, the one whose sorted distances come first in the dictionary."""
    rows = range(len(distance))
    return min(
        (list(columns) for columns in permutations(rows)),
        key=lambda columns: sorted(float(distance[row, columns[row]]) for row in rows),
    )


def test_the_closest_pair_is_matched_first_and_each_source_once() -> None:
    for seed in range(20):
        distance = torch.rand((4, 4), generator=stream(seed))
        before = distance.clone()
        assert closest_first(distance).tolist() == _greedy(distance)
        assert torch.equal(distance, before)
    # The second row is nearer to both columns; the best sum would be 1 + 1.
    assert closest_first(torch.tensor([[1.0, 9.0], [0.5, 1.0]])).tolist() == [1, 0]


def test_the_images_move_toward_patched_sources_within_the_bound(train: Split) -> None:
    poisoned = poison_with(HiddenTrigger.model_validate(QUICK), train)
    still = poison_with(HiddenTrigger.model_validate({**QUICK, "step": 1e-12}), train)
    assert torch.equal(still.x_MCHW, train.x_NCHW[still.index_M])
    assert (train.y_N[poisoned.index_M] == 0).all() and (poisoned.y_M == 0).all()
    change = (poisoned.x_MCHW.int() - train.x_NCHW[poisoned.index_M].int()).abs()
    assert change.max() == 16

    sources = train.x_NCHW[train.y_N == 1]
    worn = infer(twin(), poisoned.trigger(sources, torch.zeros(40)), twin().embed)
    before, after = (
        torch.cdist(infer(twin(), x, twin().embed), worn).square().amin(1).sum()
        for x in (train.x_NCHW[poisoned.index_M], poisoned.x_MCHW)
    )
    assert after < 0.5 * before


def test_the_images_that_end_nearest_are_kept(train: Split) -> None:
    """Without a step nothing moves: the poison is what was nearest from the start."""
    fields = {**QUICK, "step": 1e-12, "steps": 1, "batch_size": 400}
    attack = HiddenTrigger.model_validate(fields)
    poisoned = poison_with(attack, train)
    everything = poison_with(attack.model_copy(update={"rate": 0.1, "candidates": 1.0}), train)
    assert len(poisoned.index_M) == 20 and len(everything.index_M) == 40

    of_source = train.x_NCHW[train.y_N == 1]
    aim = infer(twin(), poisoned.trigger(of_source, torch.zeros(40)), twin().embed)
    own = infer(twin(), train.x_NCHW[everything.index_M], twin().embed)
    distance = torch.cdist(own, aim).square()
    matched = distance.gather(1, closest_first(distance)[:, None])[:, 0]
    kept = torch.isin(everything.index_M, poisoned.index_M)
    assert matched[kept].max() <= matched[~kept].min() + 1e-3


def test_no_training_image_has_the_patch(train: Split) -> None:
    gray = Split(torch.full_like(train.x_NCHW, 128), train.y_N)
    poisoned = poison_with(HiddenTrigger.model_validate(QUICK), gray, clean_twin=twin())
    worn = poisoned.trigger(gray.x_NCHW[:40], torch.zeros(40))
    assert (poisoned.x_MCHW.int() - 128).abs().max() <= 16
    assert (worn != 128).flatten(2).any(1).sum(1).float().mean() == pytest.approx(25, abs=1)


def test_fewer_sources_than_targets_take_turns(train: Split) -> None:
    few = train.select((train.y_N != 1) | (torch.arange(400) < 30))
    poisoned = poison_with(HiddenTrigger.model_validate({**QUICK, "steps": 2}), few)
    assert len(poisoned.index_M) == round(0.05 * len(few))


def test_what_cannot_be_mounted_is_infeasible_before_anything_runs(train: Split) -> None:
    none = train.y_N.masked_fill(train.y_N == 1, 2)
    with pytest.raises(Infeasible, match="source class 1 has no training image"):
        HiddenTrigger().choose(none, 10, stream())
    with pytest.raises(Infeasible, match="same class"):
        HiddenTrigger.model_validate({"labels": {"source": 3, "target": 3}}).choose(
            train.y_N, 10, stream()
        )
    with pytest.raises(Infeasible, match="allows only 40"):
        HiddenTrigger(rate=0.2).choose(train.y_N, 10, stream())
