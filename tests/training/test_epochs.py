"""The loop primitive: batches, streams, schedules, checkpoints, and what it reports."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from raybd.distributed import group
from raybd.training.epochs import Epochs, Stream
from raybd.training.runtime import Runtime, judged_by, report, running
from raybd.types.errors import UserError
from tests.groups import in_group
from tests.some_images import some_images


def stream(batch_size: int = 33, **fields: Any) -> Stream:
    images = some_images()
    return Stream(images.x_NCHW, images.y_N, batch_size, **fields)


def loop(name: str = "test", epochs: int = 2, seed: int = 0, **fields: Any) -> Epochs:
    given = {"state": {}, **fields}
    rng = torch.Generator().manual_seed(seed)
    return Epochs(name, epochs, given.pop("stream", stream()), rng, given.pop("state"), **given)


def finished(epochs: Epochs) -> Iterator[None]:
    for _ in epochs.remaining():
        for _ in epochs.batches():
            pass
        yield
        epochs.end_epoch()


def test_an_epoch_sees_each_row_at_most_once_and_leaves_out_what_fills_no_batch() -> None:
    batches = list(loop().batches())
    rows = torch.cat([batch.rows_B for batch in batches])
    assert [batch.size for batch in batches] == [33, 33, 33]
    assert len(rows.unique()) == 99
    images = some_images()
    for batch in batches:
        assert torch.equal(batch.x_B, images.x_NCHW[batch.rows_B])
        assert torch.equal(batch.y_B, images.y_N[batch.rows_B])


def test_a_batch_is_at_most_the_whole_stream() -> None:
    assert [batch.size for batch in loop(stream=stream(1000)).batches()] == [100]


def test_what_changes_before_augmentation_is_augmented() -> None:
    (batch,) = loop(stream=stream(100, augment="flip")).batches()
    changed = batch.x_B.clone()
    changed[:, :, :, 0] = 255
    left = (batch.augmented(changed)[:, 0, :, 0] == 255).all(1)
    right = (batch.augmented(changed)[:, 0, :, -1] == 255).all(1)
    assert (left != right).all()
    assert left.any() and right.any()


def test_embeddings_are_batched_like_images() -> None:
    z_ND = torch.rand(100, 7)
    (batch,) = loop(stream=Stream(z_ND, some_images().y_N, 100)).batches()
    assert torch.equal(batch.augmented(batch.x_B), z_ND[batch.rows_B])


def test_a_further_stream_of_another_length_is_drawn_anew_for_each_step() -> None:
    images = some_images(20)
    other = Stream(images.x_NCHW, images.y_N, 15)
    seen = [batch.further[0].rows_B for batch in loop(further=[other]).batches()]
    assert [len(rows.unique()) for rows in seen] == [15, 15, 15]
    assert len(torch.cat(seen).unique()) == 20


def test_an_epoch_may_pass_over_chosen_rows_of_the_stream() -> None:
    epochs = loop(stream=stream(8, augment="flip"))
    among = torch.arange(50, 70)
    rows = epochs.drawn(among)
    batches = list(epochs.batches(rows))
    # Twenty rows are two batches of eight; four are left out.
    assert [batch.size for batch in batches] == [8, 8]
    seen = torch.cat([batch.rows_B for batch in batches])
    assert len(seen.unique()) == 16
    assert torch.isin(seen, among).all()
    assert torch.equal(batches[0].y_B, some_images().y_N[batches[0].rows_B])
    assert [len(few) for few in epochs.drawn(torch.arange(3))] == [3]
    # A row may come twice, with a draw of its own each time.
    (twice,) = epochs.batches([torch.arange(30).repeat(2)])
    first, second = twice.augmented(twice.x_B).chunk(2)
    assert not torch.equal(first, second)


def rows_of_a_worker() -> tuple[list[Tensor], list[Tensor], int]:
    shared = [batch.rows_B for batch in loop().batches()]
    whole = [batch.rows_B for batch in loop(stream=stream(sharded=False)).batches()]
    return shared, whole, group.rank()


def test_workers_share_a_batch_or_all_take_it() -> None:
    alone, _, _ = rows_of_a_worker()
    (first, whole, _), (second, also_whole, _) = in_group(rows_of_a_worker)
    for rows, a, b in zip(alone, first, second, strict=True):
        assert torch.equal(a, rows[::2])
        assert torch.equal(b, rows[1::2])
    assert all(torch.equal(a, b) for a, b in zip(whole, also_whole, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole, alone, strict=True))


def schedule(optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    return CosineAnnealingLR(optimizer, steps)


def test_alternating_steps_move_only_their_optimizer_and_its_schedule() -> None:
    ones = [nn.Parameter(torch.ones(())) for _ in range(2)]
    first, second = (torch.optim.SGD([one], lr=0.1) for one in ones)
    steps: list[int] = []
    run = loop(
        epochs=1,
        optimizers=[first, second],
        schedule=schedule,
        clip=0.5,
        after_step=lambda: steps.append(1),
    )
    for _ in run.batches():
        run.step(2 * ones[0] + ones[1], first)
    assert ones[0].item() == pytest.approx(1 - 0.5 * (0.1 + 0.075 + 0.025))  # clipped to 0.5
    assert ones[1].item() == 1
    assert first.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    assert second.param_groups[0]["lr"] == 0.1
    assert len(steps) == 3


def test_a_step_is_two_halves_and_the_first_can_be_done_anew() -> None:
    one = nn.Parameter(torch.ones(()))
    run = loop(epochs=1, optimizers=[torch.optim.SGD([one], lr=0.1)], schedule=schedule, clip=0.5)
    for _ in run.batches():
        run.backward(-9 * one)
        run.backward(2 * one)
        assert one.grad is not None and one.grad.item() == pytest.approx(0.5), "replaced, clipped"
        run.descend()
    assert one.item() == pytest.approx(1 - 0.5 * (0.1 + 0.075 + 0.025))


def test_an_epoch_reports_the_mean_of_its_losses_and_its_speed() -> None:
    told: list[Any] = []
    with running(Runtime(report=told.append)):
        run = loop(epochs=1)
        for at, batch in enumerate(run.batches()):
            run.add_loss(torch.full((batch.size,), float(at)).sum(), batch.size)
        run.end_epoch(own=3)
    (facts,) = told
    assert facts["loss"] == 1.0
    assert facts["images_per_second"] > 0
    assert {"name": "test", "epoch": 1, "epochs": 1, "own": 3}.items() <= facts.items()


def test_a_loss_that_is_not_finite_stops_with_the_hint() -> None:
    run = loop(hint="Lower it.")
    for _ in run.batches():
        run.add_loss(torch.tensor(float("nan")), 1)
    with pytest.raises(UserError, match=r"test: the loss is nan after epoch 1 of 2\nLower it\."):
        run.end_epoch()


def test_a_checkpoint_of_another_stream_is_not_taken() -> None:
    """A stage may run a method several times under one name, each time from another stream."""
    kept: dict[str, bytes] = {}
    with running(Runtime(save=kept.__setitem__, every_seconds=0)):
        list(finished(loop(seed=1)))
    with running(Runtime(load=kept.get)):
        assert list(loop(seed=1).remaining()) == [1]
        assert list(loop(seed=2).remaining()) == [0, 1]


def test_reporting_is_one_way() -> None:
    """The listener of a watched runtime gets the evaluation; the method and checkpoints do not."""
    told: list[Any] = []
    kept: dict[str, bytes] = {}

    def judge(score_N: Tensor) -> dict[str, float]:
        return {"auroc": 0.75}

    watched = Runtime(report=told.append, save=kept.__setitem__, every_seconds=0, watched=True)
    with running(watched), judged_by(judge):
        assert report({"epoch": 0}, lambda: torch.zeros(3)) is None
        run = loop()
        list(run.batches())
        run.end_epoch(intermediate_scores=lambda: torch.zeros(3))
    assert [facts["auroc"] for facts in told] == [0.75, 0.75]
    assert b"auroc" not in kept["test"]


def test_scores_are_not_computed_for_nobody() -> None:
    def scores() -> Tensor:
        raise AssertionError("computed")

    with running(Runtime(watched=False)), judged_by(lambda score_N: {}):
        report({"epoch": 1}, scores)
    with running(Runtime(watched=True)):  # a stage without a judge
        report({"epoch": 1}, scores)


class Noisy(nn.Module):
    """A classifier that draws from torch's global stream, as dropout does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3 * 8 * 8, 4)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BD = nn.functional.dropout(x_BCHW.flatten(1) / 255, 0.5)
        out_BK: Tensor = self.linear(x_BD)
        return out_BK


def _noisy(epochs: int, global_seed: int, runtime: Runtime, stop: int | None = None) -> Tensor:
    with torch.random.fork_rng(devices=[]), running(runtime):
        model = Noisy()
        torch.manual_seed(global_seed)
        rng = torch.Generator().manual_seed(0)
        images = some_images()
        x_NCHW = images.x_NCHW[..., :8, :8].contiguous()
        sgd = torch.optim.SGD(model.parameters(), 0.01)
        loop = Epochs(
            "noisy", epochs, Stream(x_NCHW, images.y_N, 25), rng, {"m": model}, optimizers=[sgd]
        )
        for epoch in loop.remaining():
            if epoch == stop:
                break
            for batch in loop.batches():
                loss = nn.functional.cross_entropy(model(batch.x_B.float()), batch.y_B)
                loop.step(loss)
                loop.add_loss(loss, 1)
            loop.end_epoch()
        return model.linear.weight.detach().clone()


def test_a_resumed_training_draws_the_same_dropout() -> None:
    kept: dict[str, bytes] = {}
    whole = _noisy(3, 1, Runtime())
    runtime = Runtime(save=kept.__setitem__, load=kept.get, every_seconds=0)
    _noisy(3, 2, runtime, stop=2)
    assert kept
    assert torch.equal(_noisy(3, 3, runtime), whole)
    assert torch.equal(_noisy(3, 4, Runtime()), whole)
