"""Checkpoints: they come back as they were, and a damaged one costs its training, no more."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raybd.cells.run import run_stage
from raybd.results.store import Store
from raybd.training.checkpoint_file import DamagedCheckpoint, decode, encode
from raybd.training.runtime import Runtime
from tests.some_images import same_weights
from tests.tiny_cells import one_cell
from tests.training.test_loop import EXACT, train


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return (
            one.dtype == other.dtype and torch.equal(one, other) and one.stride() == other.stride()
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def test_a_state_comes_back_as_it_was() -> None:
    weight = torch.rand(4, 3, 2, 2)
    state = {
        "state": {0: {"step": torch.tensor(3.0), "momentum": weight}, 1: {}},
        "channels last": weight.contiguous(memory_format=torch.channels_last),
        "view": weight[1:],
        "half": weight.bfloat16(),
        "rng": torch.Generator().get_state(),
        "betas": (0.9, 0.999),
        "nested": [None, True, 1, 0.1 + 0.2, float("inf"), "text", ["list"], ("dict", [])],
    }
    assert same(decode(encode(state)), state)


def test_what_a_checkpoint_can_not_hold_is_said() -> None:
    for value in ({1, 2}, {0.5: 1}, object()):
        with pytest.raises(TypeError, match="can't hold"):
            encode({"x": value})


@pytest.mark.parametrize("fault", ["garbage", "empty", "truncated", "changed", "pickled"])
def test_a_damaged_checkpoint_is_set_aside_and_the_training_is_the_same(
    fault: str, tmp_path: Path
) -> None:
    kept: dict[str, bytes] = {}
    whole = train(EXACT, Runtime(save=kept.setdefault, every_seconds=0))  # type: ignore[arg-type]
    (name, sound), *_ = kept.items()
    pickled = tmp_path / "pickled"
    torch.save({"history": []}, pickled)
    changed = bytearray(sound)
    changed[len(sound) // 2] ^= 4
    damaged = {
        "garbage": b"garbage",
        "empty": b"",
        "truncated": sound[:-7],
        "changed": bytes(changed),
        "pickled": pickled.read_bytes(),
    }[fault]
    with pytest.raises(DamagedCheckpoint):
        decode(damaged)

    said: list[tuple[str, str]] = []
    seen: list[int] = []
    resumed = train(
        EXACT,
        Runtime(
            load=lambda _: damaged,
            set_aside=lambda *about: said.append(about),
            report=lambda facts: seen.append(facts["epoch"]),
        ),
    )
    assert seen == [1, 2, 3]
    assert same_weights(whole, resumed)
    assert [about[0] for about in said] == [name]


def test_a_stage_with_a_garbage_checkpoint_runs_and_says_so_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(str(tmp_path))
    cell = one_cell()
    for stage in cell.stages():
        dataset = stage.dataset.config.load()  # type: ignore[attr-defined]
        if stage.name == "victim":
            store.write(f"checkpoints/{stage.key}/victim", b"garbage")
        run_stage(stage, store, dataset)
    assert store.state(cell.victim.name, cell.victim.key) == "ok"
    assert len(caplog.records) == 1, caplog.text
    assert "begins from the start" in caplog.text
    assert "weights_only" not in caplog.text
    assert store.files("damaged/checkpoints/*/*")
