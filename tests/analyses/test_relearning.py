"""Re-learning: what is trained on, what is measured, and how a backdoor differs from none."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raybd.analyses.relearning import Relearning
from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.training.inference import infer
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import Pairs
from raybd.types.models import Victim
from tests.analyses.given import given, given_of
from tests.shared_victims import DIGITS, SharedVictims, Trained
from tests.small_scene import small_scene, stream
from tests.tiny_cells import TINY


def some_pairs() -> tuple[Victim, Split, Pairs]:
    victim, suspects, clean = small_scene()
    return (
        victim,
        clean,
        Pairs(suspects.x_NCHW, 255 - suspects.x_NCHW, suspects.y_N, (suspects.y_N + 1) % 3),
    )


def learned(**fields: Any) -> pa.Table:
    victim, clean, pairs = some_pairs()
    tool = Relearning.model_validate(fields)
    return tool.analyse(given(victim, pairs, clean), stream(1))


def test_the_first_row_is_the_victim_as_it_was_on_images_that_are_not_trained_on() -> None:
    victim, _, pairs = some_pairs()
    before = {name: part.clone() for name, part in victim.state_dict().items()}
    row = learned(images=10, measured=1000).slice(0, 1).to_pylist()[0]
    others = torch.randperm(90, generator=stream(1))[10:]
    worn = infer(victim, pairs.worn_MCHW[others]).argmax(1)
    plain = infer(victim, pairs.x_MCHW[others]).argmax(1)
    assert row == {
        "images": 10,
        "step": 0,
        "attack_success": pytest.approx(float((worn == pairs.wanted_M[others]).float().mean())),
        "clean_accuracy": pytest.approx(float((plain == pairs.y_M[others]).float().mean())),
        "loss": None,
    }
    assert all(torch.equal(victim.state_dict()[name], part) for name, part in before.items())


def test_success_is_measured_after_every_few_steps_and_the_last_one() -> None:
    table = learned(steps=7, every=3, clean_images=10)
    assert table["step"].to_pylist() == [0, 3, 6, 7]
    assert table["loss"].to_pylist()[1:] == pytest.approx(table["loss"].to_pylist()[1:])
    assert all(loss > 0 for loss in table["loss"].to_pylist()[1:])
    # Whatever is measured in between, the steps are the same.
    assert learned(steps=7, every=7, clean_images=10).to_pylist()[-1] == table.to_pylist()[-1]


def test_each_step_is_one_of_sgd_on_the_poisoned_images_and_some_clean_ones() -> None:
    """By hand, for one step on all clean images at once."""
    victim, clean, pairs = some_pairs()
    tool = Relearning(images=5, clean_images=30, steps=1, lr=0.1)
    loss = tool.analyse(given(victim, pairs, clean), stream(1))["loss"].to_pylist()[1]
    few = torch.randperm(90, generator=stream(1))[:5]
    x_BCHW = torch.cat([clean.x_NCHW, pairs.worn_MCHW[few]])
    y_B = torch.cat([clean.y_N, pairs.wanted_M[few]])
    victim.train()
    state = {name: part.clone() for name, part in victim.state_dict().items()}
    with torch.no_grad():
        expected = float(torch.nn.functional.cross_entropy(victim(x_BCHW), y_B))
    victim.load_state_dict(state)
    victim.eval()
    assert loss == pytest.approx(expected, rel=1e-4)


def test_a_resumed_training_has_all_rows() -> None:
    kept: dict[str, bytes] = {}

    def save(name: str, data: bytes) -> None:
        kept.setdefault(name, data)

    fields = {"steps": 9, "clean_images": 10}
    with running(Runtime(save=save, every_seconds=0)):
        whole = learned(**fields)
    with running(Runtime(load=kept.get)):
        assert learned(**fields).equals(whole)


def test_too_few_images_are_one_clear_error() -> None:
    with pytest.raises(UserError, match="90 test images count"):
        learned(images=90)


def after(trained: Trained, victim: Victim) -> list[float]:
    """Attack success after each step of re-learning."""
    tool = Relearning(images=5, steps=6, lr=0.01)
    table = tool.analyse(given_of(trained, victim), stream(1))
    found: list[float] = table["attack_success"].to_pylist()
    return found


def test_a_backdoor_that_is_there_stays_and_the_clean_twin_learns_it_slowly(
    shared: SharedVictims,
) -> None:
    attacked = shared.classifier(DIGITS, {"kind": "badnets", "rate": 0.1})
    twin = shared.classifier(DIGITS, {"kind": "none"})
    kept, learning = after(attacked, attacked.victim), after(attacked, twin.victim)
    assert min(kept) > 0.9
    assert learning[0] < 0.1
    assert learning[-1] < 0.5
    assert len(kept) == len(learning) == 7


def test_an_experiment_compares_each_victim_with_the_clean_twin(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    asked = {
        **TINY,
        "detectors": [],
        "repairs": [{"kind": "fine_tune", "epochs": 1, "augment": "none"}],
        "analyses": [{"kind": "relearning", "steps": 2, "images": 3}],
    }
    undefended, repaired = parse(asked).cells()
    for cell in (undefended, repaired):
        run_cell(cell, store)
    tables = {}
    for path in store.files("analysis/tool=relearning/*.parquet"):
        table = pq.read_table(tmp_path / path)
        tables[table["stage"][0].as_py()] = table
        assert table["attack"][0].as_py() == "badnets"
        assert table["step"].to_pylist() == [0, 1, 2]
    assert sorted(tables) == ["repair", "twin", "victim"]
    # Its own poison, not the (missing) one of the twin.
    assert undefended.keys()["poison"] == undefended.victim.poison_stage.key
    assert tables["twin"]["victim"][0].as_py() != undefended.victim.key
    # Without an attack there is no trigger, and no twin to compare with.
    benign = parse({**asked, "attacks": [{"kind": "none"}]}).cells()
    assert all(not cell.extras for cell in benign)
