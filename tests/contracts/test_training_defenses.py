"""The contract that every training defense keeps."""

import pickle
import sys
from functools import cache
from typing import Any, cast

import pytest
import torch
from torch import Generator, Tensor

from raybd.networks.small_cnn import SmallCnn
from raybd.registry import method_class, names
from raybd.training.inference import infer
from raybd.training.models import new_victim
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from raybd.types.methods import StartedDefense, TrainingDefense
from raybd.types.models import Network, Victim
from raybd.types.verdicts import Defended
from tests.groups import in_group
from tests.small_scene import small_scene, stream
from tests.threads import threads

KINDS = names("training_defenses")
LIGHT: dict[str, Any] = {"epochs": 2, "batch_size": 33, "lr": 0.02, "precision": "fp32"}
SMALL: dict[str, dict[str, Any]] = {
    "abl": {**LIGHT, "isolation_steps": 4, "share": 0.1, "ascent_epochs": 2, "ascent_lr": 0.01},
    "cbd": {**LIGHT, "first_steps": 5, "snapshots": 2},
    "dbd": {**LIGHT, "steps": 2, "batch_size": 11, "head_epochs": 1},
    "dst": {
        **LIGHT,
        "split": {"epochs": 1, "apart_epochs": 1, "batch_size": 33},
        "head_epochs": 2,
        "head_lr": 0.1,
        "head_batch_size": 5,
    },
    "nab": {**LIGHT, "isolation_steps": 4, "share": 0.1, "trusted_epochs": 2},
}
"""Fields that make a defense quick; batches that two workers cannot share evenly."""


def defend_with(
    kind: str,
    split: Split,
    num_classes: int,
    network: Network,
    clean: Split,
    rng: Generator,
) -> Defended:
    """Defend; from an untrained encoder where one is needed."""
    config = config_of(kind)
    if not isinstance(config, StartedDefense):
        return config.defend(split, num_classes, network, clean, rng)
    return config.defend_from(start_of(split, network), split, num_classes, network, clean, rng)


def config_of(kind: str) -> TrainingDefense:
    found = method_class("training_defenses", kind)
    return cast(TrainingDefense, found.model_validate(SMALL.get(kind, {})))


def start_of(split: Split, network: Network) -> Victim:
    start = new_victim(split, 3, network, stream(9)).eval()
    start.head = None
    return start


def defended(kind: str, runtime: Runtime | None = None) -> Defended:
    _, split, clean = small_scene()
    with running(runtime or Runtime()), threads(1):
        return defend_with(kind, split, 3, SmallCnn(width=4), clean, stream(1))


@cache
def once(kind: str) -> Defended:
    return defended(kind)


def state(found: Defended) -> dict[str, Tensor]:
    """Return all that a defense hands out in numbers."""
    weights = dict(found.victim.state_dict())
    return weights if found.verdict is None else {**weights, "scores": found.verdict.score_N}


@pytest.mark.parametrize("kind", KINDS)
def test_returns_a_victim_that_is_ready_to_use_and_leaves_its_inputs_alone(kind: str) -> None:
    _, split, clean = small_scene()
    before = [part.clone() for part in (split.x_NCHW, split.y_N, clean.x_NCHW, clean.y_N)]
    found = defended(kind)
    after = [split.x_NCHW, split.y_N, clean.x_NCHW, clean.y_N]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    assert not any(module.training for module in found.victim.modules())
    assert all(value.device.type == "cpu" for value in found.victim.state_dict().values())
    assert infer(found.victim, split.x_NCHW).shape == (90, 3)
    assert all(isinstance(value, float) for value in found.facts.values())
    assert not found.oracle


@pytest.mark.parametrize("kind", KINDS)
def test_suspicion_is_one_finite_number_for_each_image(kind: str) -> None:
    verdict = once(kind).verdict
    assert verdict is not None
    assert not verdict.oracle
    assert verdict.score_N.shape == (90,)
    assert verdict.score_N.dtype == torch.float32
    assert torch.isfinite(verdict.score_N).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_stream_gives_the_same_result(kind: str) -> None:
    again = state(defended(kind))
    assert all(torch.equal(value, again[name]) for name, value in state(once(kind)).items())
    assert once(kind).facts == defended(kind).facts


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in {"dbd", "nab"}])
def test_the_encoder_that_it_starts_from_stays_as_it_is(kind: str) -> None:
    _, split, clean = small_scene()
    start = start_of(split, SmallCnn(width=4))
    before = {name: value.clone() for name, value in start.state_dict().items()}
    config = config_of(kind)
    assert isinstance(config, StartedDefense)
    config.defend_from(start, split, 3, SmallCnn(width=4), clean, stream(1))
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_returns_can_be_loaded_again(kind: str) -> None:
    _, split, _ = small_scene()
    weights = once(kind).victim.state_dict()
    loaded = new_victim(split, 3, SmallCnn(width=4), stream(5))
    config_of(kind).reshape(loaded, weights)
    loaded.load_state_dict(weights)
    assert torch.equal(infer(loaded, split.x_NCHW), infer(once(kind).victim, split.x_NCHW))


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_defense_ends_where_the_whole_one_does(kind: str) -> None:
    kept: dict[str, bytes] = {}

    def save(name: str, data: bytes) -> None:
        kept.setdefault(name, data)  # of each training, the state after its first epoch

    defended(kind, Runtime(save=save, every_seconds=0))
    assert kept
    resumed = defended(kind, Runtime(load=kept.get))
    assert all(torch.equal(value, state(resumed)[n]) for n, value in state(once(kind)).items())
    assert resumed.facts == once(kind).facts


@pytest.mark.parametrize("kind", KINDS)
def test_its_progress_is_told_epoch_by_epoch(kind: str) -> None:
    heard: list[tuple[str, int]] = []
    defended(kind, Runtime(report=lambda facts: heard.append((facts["name"], facts["epoch"]))))
    assert all(name.split()[0] == kind for name, _ in heard)
    assert {epoch for _, epoch in heard} >= {1, 2}


@pytest.mark.parametrize("kind", KINDS)
def test_cites_its_paper_and_documents_its_fields(kind: str) -> None:
    found = method_class("training_defenses", kind)
    assert "arXiv" in (sys.modules[found.__module__].__doc__ or "")
    assert all(info.description for info in found.model_fields.values())
    assert found.model_validate_json(found().model_dump_json()) == found()
    assert pickle.loads(pickle.dumps(config_of(kind))) == config_of(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_search_ranges_hold_the_defaults(kind: str) -> None:
    for name, info in method_class("training_defenses", kind).model_fields.items():
        search = cast(dict[str, Any], info.json_schema_extra or {}).get("search")
        if search is None:
            continue
        if "choices" in search:
            assert info.default in search["choices"], name
        else:
            # A factor of 0, which leaves a term out, lies on no logarithmic scale.
            assert search["low"] <= info.default <= search["high"] or info.default == 0, name


def _all() -> list[dict[str, Tensor]]:
    return [state(defended(kind)) for kind in KINDS]


def test_two_workers_defend_as_one() -> None:
    """Tolerance: sums in another order, through up to a dozen steps."""
    alone = [state(once(kind)) for kind in KINDS]
    first, second = in_group(_all)
    for kind, one, two, other in zip(KINDS, alone, first, second, strict=True):
        for name, value in one.items():
            close = torch.allclose(two[name].float(), value.float(), rtol=1e-2, atol=2e-3)
            assert close, (kind, name)
            assert torch.equal(two[name], other[name]), (kind, name)
