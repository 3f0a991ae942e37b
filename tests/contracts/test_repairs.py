"""The contract that every repair keeps."""

import copy
import pickle
import sys
from functools import cache
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from raybd.networks.small_cnn import SmallCnn
from raybd.networks.vit_tiny import VitTiny
from raybd.registry import method_class, names
from raybd.training.inference import infer
from raybd.training.models import new_victim
from raybd.types.errors import Infeasible
from raybd.types.methods import Repair, ScannedRepair
from raybd.types.models import Network
from raybd.types.verdicts import Defended
from tests.groups import in_group
from tests.small_scene import small_scene, stream

KINDS = names("repairs")
SMALL: dict[str, dict[str, Any]] = {
    "fine_tune": {"epochs": 2, "batch_size": 10, "lr": 0.01, "precision": "fp32"},
    "anp": {"steps": 6, "batch_size": 12, "lr": 1.0, "threshold": 0.9, "precision": "fp32"},
    "bnp": {"u": 1.5},
    "clp": {"u": 1.5},
    "ep": {"u": 1.5, "images": 60},
    "fine_pruning": {"share": 0.3, "epochs": 2, "batch_size": 10, "precision": "fp32"},
    "rnp": {
        "unlearn_epochs": 3,
        "mask_lr": 2.0,
        "mask_epochs": 5,
        "batch_size": 12,
        "threshold": 0.9,
    },
    "dbr": {
        "epochs": 2,
        "batch_size": 10,
        "lr": 0.01,
        "precision": "fp32",
        "split": {"epochs": 1, "apart_epochs": 1, "batch_size": 30},
    },
    "shrink_pad": {"size": 3},
    "neural_cleanse": {"epochs": 2, "batch_size": 10, "lr": 0.01, "precision": "fp32"},
    "nad": {"epochs": 2, "teacher_epochs": 1, "batch_size": 10, "lr": 0.01, "precision": "fp32"},
    "ft_sam": {"epochs": 2, "batch_size": 10, "lr": 0.01, "precision": "fp32"},
    "ibau": {"rounds": 2, "batch_size": 12, "carrying": 0.5},
    "sau": {"epochs": 2, "batch_size": 12, "search_steps": 2, "precision": "fp32"},
    "npd": {"epochs": 2, "first_epochs": 1, "batch_size": 12, "precision": "fp32"},
    "mcr": {"epochs": 2, "end_epochs": 2, "batch_size": 12, "precision": "fp32"},
}
"""Fields that make a repair quick, and let it change a small victim."""


def repair_of(kind: str) -> Repair:
    return cast(Repair, method_class("repairs", kind).model_validate(SMALL.get(kind, {})))


def repaired(kind: str, seed: int = 1) -> Defended:
    victim, suspects, clean = small_scene()
    repair = repair_of(kind)
    if isinstance(repair, ScannedRepair):
        return repair.repair_with(small_scan(), victim, suspects, clean, stream(seed))
    return repair.repair(victim, suspects, clean, stream(seed))


def small_scan() -> dict[str, Tensor]:
    """Return what a scan of the small scene might find: a white corner asks for class 1."""
    mask_KHW = torch.ones(3, 16, 16)
    mask_KHW[1, 3:, 3:] = 0
    flagged_K = torch.tensor([False, True, False])
    return {
        "mask": mask_KHW,
        "pattern": torch.ones(3, 3, 16, 16),
        "norm": mask_KHW.sum((1, 2)),
        "index": 5.0 * flagged_K,
        "flagged": flagged_K,
    }


@cache
def before() -> dict[str, Tensor]:
    return {name: value.clone() for name, value in small_scene()[0].state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_returns_another_victim_that_is_ready_to_use(kind: str) -> None:
    victim, suspects, clean = small_scene()
    images_before = [part.x_NCHW.clone() for part in (suspects, clean)]
    labels_before = [part.y_N.clone() for part in (suspects, clean)]
    weights_before = before()

    defended = repaired(kind)
    assert defended.victim is not victim
    assert not defended.victim.training
    assert all(value.device.type == "cpu" for value in defended.victim.state_dict().values())
    assert not torch.equal(
        infer(defended.victim, suspects.x_NCHW), infer(victim, suspects.x_NCHW)
    ), "it changes something"
    assert all(isinstance(value, float) for value in defended.facts.values())
    assert not defended.oracle

    now = victim.state_dict()
    assert now.keys() == weights_before.keys()
    assert all(torch.equal(now[name], value) for name, value in weights_before.items())
    assert all(parameter.grad is None for parameter in victim.parameters())
    parts = (suspects, clean)
    assert all(torch.equal(part.x_NCHW, x) for part, x in zip(parts, images_before, strict=True))
    assert all(torch.equal(part.y_N, y) for part, y in zip(parts, labels_before, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_stream_gives_the_same_victim(kind: str) -> None:
    one = repaired(kind)
    two = repaired(kind)
    again = two.victim.state_dict()
    assert one.facts == two.facts
    assert all(torch.equal(value, again[n]) for n, value in one.victim.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_returns_can_be_loaded_again(kind: str) -> None:
    victim, suspects, _ = small_scene()
    state = repaired(kind).victim.state_dict()
    loaded = copy.deepcopy(victim)
    repair_of(kind).reshape(loaded, state)
    loaded.load_state_dict(state)
    expected = infer(repaired(kind).victim, suspects.x_NCHW)
    assert torch.equal(infer(loaded.eval(), suspects.x_NCHW), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", [SmallCnn(width=4), VitTiny(depth=1, width=16, heads=1)])
def test_what_it_cannot_repair_is_known_before_anything_runs(kind: str, network: Network) -> None:
    with torch.device("meta"):
        encoder, _ = network.build(3, 16)
    reason = repair_of(kind).cannot(encoder, 3)
    _, suspects, clean = small_scene()
    victim = new_victim(suspects, 3, network, stream()).eval()
    if reason is None:
        assert repair_of(kind).repair(victim, suspects, clean, stream()).victim is not victim
    else:
        with pytest.raises(Infeasible):
            repair_of(kind).repair(victim, suspects, clean, stream())


@pytest.mark.parametrize("kind", KINDS)
def test_cites_its_paper_and_documents_its_fields(kind: str) -> None:
    repair = method_class("repairs", kind)
    assert "arXiv" in (sys.modules[repair.__module__].__doc__ or "")
    assert all(info.description for info in repair.model_fields.values())
    assert repair.model_validate_json(repair().model_dump_json()) == repair()
    assert pickle.loads(pickle.dumps(repair_of(kind))) == repair_of(kind)


def _repair_all() -> list[dict[str, Tensor]]:
    return [repaired(kind).victim.state_dict() for kind in KINDS]


def test_two_workers_repair_as_one() -> None:
    alone = _repair_all()
    for together in in_group(_repair_all):
        for kind, one, two in zip(KINDS, alone, together, strict=True):
            for name, value in one.items():
                close = torch.allclose(two[name].float(), value.float(), rtol=1e-3, atol=1e-4)
                assert close, (kind, name)
