"""Every method draws from the stream that it is given, and leaves the global ones alone.

The networks have such a test of their own, in test_networks.py.
"""

# The global stream of numpy is what is looked at here.
# ruff: noqa: NPY002

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import rich.style  # here, because its import draws from Python's stream  # noqa: F401
import torch
from torch import Generator, Tensor

from raybd.cells.answers import answers
from raybd.cells.loading import load_victim
from raybd.cells.run import run_cell
from raybd.networks.small_cnn import SmallCnn
from raybd.networks.tiny_clip import TinyClip
from raybd.plan.file import parse
from raybd.registry import METHOD_ROLES, Role, method_class, names
from raybd.results.store import Store
from raybd.training.models import new_victim
from raybd.types.methods import (
    Analysis,
    DatasetMethod,
    Pairs,
    Scanner,
    Trainer,
    TransferTrainer,
)
from raybd.types.models import Network, Victim
from tests.analyses.given import SMALL as SMALL_ANALYSES
from tests.analyses.given import given
from tests.analyses.test_dynamics import epochs
from tests.attacks.making import ON_GIVEN_IMAGES, make, poison_with, random_split
from tests.clips import some_images
from tests.contracts.test_detectors import SMALL as SMALL_DETECTORS
from tests.contracts.test_detectors import detector_of
from tests.contracts.test_repairs import repaired
from tests.contracts.test_scanners import SMALL as SMALL_SCANNERS
from tests.contracts.test_training_defenses import defend_with
from tests.small_scene import small_scene, stream
from tests.tiny_cells import TINY, on_encoder
from tests.trainers.making import KINDS as SELF_SUPERVISED
from tests.trainers.making import network as network_for
from tests.trainers.making import trainer as light_trainer

Numbers = Mapping[str, Tensor]
LIGHT = {"epochs": 1, "batch_size": 20}
STATES: tuple[Callable[[], object], ...] = (
    lambda: torch.get_rng_state().tolist(),
    lambda: [str(part) for part in np.random.get_state()],
    random.getstate,
)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def weights(victim: Victim | None) -> dict[str, Tensor]:
    return dict(victim.state_dict()) if victim is not None else {}


# --- one small run of a method of each role ------------------------------------------------------


def attack(kind: str) -> Numbers:
    poisoned = poison_with(make(kind), random_split())
    made = {"x": poisoned.x_MCHW, "y": poisoned.y_M, "index": poisoned.index_M}
    return {**made, **poisoned.state, **weights(poisoned.victim)}


def trainer(kind: str) -> Numbers:
    rng = stream()
    split = some_images(40)
    # CLIP needs a network that reads texts.
    reads_texts = kind in ("clip", "zero_shot")
    network: Any = TinyClip() if reads_texts else SmallCnn(width=4)
    if kind in SELF_SUPERVISED:
        config, network = light_trainer(kind, epochs=1), network_for(kind)
    else:
        found = method_class("trainers", kind)
        fields = {name: value for name, value in LIGHT.items() if name in found.model_fields}
        config = found.model_validate(fields)
    if isinstance(config, TransferTrainer):
        start = new_victim(split, 4, network, rng)
        start.head = None
        return weights(config.train_from(start, split, 4, network, rng))
    return weights(cast(Trainer, config).train(split, 4, cast(Network, network), rng))


def training_defense(kind: str) -> Numbers:
    split = some_images(40)
    defended = defend_with(kind, split, 4, SmallCnn(width=4), some_images(8), stream())
    verdict = defended.verdict
    scores = {"scores": verdict.score_N} if verdict is not None else {}
    return {**weights(defended.victim), **scores}


def detector(kind: str) -> Numbers:
    victim, suspects, clean = small_scene()
    config = detector_of(kind, SMALL_DETECTORS.get(kind, {}))
    verdict = config.score(victim, suspects, clean, stream())
    return {"score": verdict.score_N, "threshold": verdict.threshold_N}


def scanner(kind: str) -> Numbers:
    victim, _, clean = small_scene()
    fields = SMALL_SCANNERS.get(kind, {})
    verdict = cast(Scanner, method_class("scanners", kind).model_validate(fields)).scan(
        victim, clean, stream()
    )
    return {"score": verdict.score_N, "threshold": verdict.threshold_N, **verdict.tensors}


def repair(kind: str) -> Numbers:
    return weights(repaired(kind).victim)


def analysis(kind: str) -> Numbers:
    victim, suspects, clean = small_scene()
    pairs = Pairs(suspects.x_NCHW, 255 - suspects.x_NCHW, suspects.y_N, 2 - suspects.y_N)
    fields = SMALL_ANALYSES.get(kind, {})
    tool = cast(Analysis, method_class("analyses", kind).model_validate(fields))
    logits_NK = torch.eye(3)[suspects.y_N]
    kept = {
        "predictions": answers("test_clean", torch.arange(90), suspects.y_N, logits_NK),
        "dynamics": epochs((0.6, 0.9), (0.7, 0.9)),
    }
    table = tool.analyse(given(victim, pairs, clean, twin=victim, **kept), stream())
    # A null is read as NaN, which is not equal to itself.
    numbers = table.to_pandas().select_dtypes("number").fillna(-1)
    return {name: torch.tensor(numbers[name].to_numpy()) for name in numbers}


def dataset(kind: str) -> Numbers:
    config: Any = method_class("datasets", kind).model_validate({"limit": 200, "clean": 20})
    loaded = cast(DatasetMethod, config).load()
    return {"train": loaded.train.x_NCHW, "clean": loaded.clean.x_NCHW, "test": loaded.test.x_NCHW}


RUNS: dict[Role, Callable[[str], Numbers]] = {
    "attacks": attack,
    "trainers": trainer,
    "training_defenses": training_defense,
    "detectors": detector,
    "scanners": scanner,
    "repairs": repair,
    "analyses": analysis,
    "datasets": dataset,
}
NEED_FILES = set(names("datasets")) - {"digits"}
"""They divide and shuffle by the code that they share with the digits."""
NEED_WEIGHTS = {"pretrained", "imported", *ON_GIVEN_IMAGES}
"""They hand out weights, or images, as they are."""
METHODS = [
    (role, kind)
    for role in RUNS
    for kind in names(role)
    if kind not in {*NEED_FILES, *NEED_WEIGHTS}
]


def same_whatever_the_global_streams(run: Callable[[], Numbers]) -> bool:
    """Return whether a run gives the same numbers under two states of the global streams.

    Fails if the run changes such a state.
    """
    found = []
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        for seed in (1, 2):
            _seed(seed)
            before = [state() for state in STATES]
            found.append(run())
            assert [state() for state in STATES] == before, "the global streams are left alone"
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])
    first, second = found
    assert first and first.keys() == second.keys()
    return all(torch.equal(second[name], value) for name, value in first.items())


@pytest.mark.parametrize(("role", "kind"), METHODS, ids=lambda value: value)
def test_the_given_stream_decides_the_numbers_and_no_global_one(role: Role, kind: str) -> None:
    assert same_whatever_the_global_streams(lambda: RUNS[role](kind))


@pytest.mark.parametrize("probe", ["linear_probe", "mlp_probe"])
def test_a_stored_victim_is_loaded_without_a_draw(probe: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    cell = parse({**TINY, "trainers": [on_encoder(probe)], "detectors": []}).cells()[0]
    run_cell(cell, store)
    assert same_whatever_the_global_streams(lambda: weights(load_victim(cell.victim, store)))


def test_methods_of_all_roles_are_run() -> None:
    assert {*RUNS, "networks"} == set(METHOD_ROLES)


def _drawing(of: str) -> Callable[[], Numbers]:
    def run() -> Numbers:
        if of == "torch":
            return {"x": torch.rand(3)}
        if of == "numpy":
            return {"x": torch.tensor(np.random.rand(3))}
        if of == "python":
            return {"x": torch.tensor(random.random())}
        # It puts the stream back, but its numbers come from there.
        with torch.random.fork_rng(devices=[]):
            return {"x": torch.rand(3, generator=None)}

    return run


@pytest.mark.parametrize("of", ["torch", "numpy", "python"])
def test_a_draw_from_a_global_stream_is_seen(of: str) -> None:
    with pytest.raises(AssertionError, match="left alone"):
        same_whatever_the_global_streams(_drawing(of))


def test_numbers_that_follow_from_a_global_stream_are_seen() -> None:
    assert not same_whatever_the_global_streams(_drawing("forked torch"))


def test_a_given_stream_is_no_global_one() -> None:
    rng_of: Callable[[], Generator] = stream
    assert same_whatever_the_global_streams(lambda: {"x": torch.rand(3, generator=rng_of())})
