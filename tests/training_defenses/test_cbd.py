"""CBD as a whole: guard, resume, workers, and the backdoor that it does not learn."""

import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.attacks.data.badnets import BadNets
from raybd.cells.victim_quality import measure
from raybd.datasets.cifar10 import Cifar10
from raybd.metrics import detection
from raybd.networks.small_cnn import SmallCnn
from raybd.registry import method_class
from raybd.trainers.supervised import Supervised
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.training.recipe import Recipe
from raybd.training.runtime import Runtime
from raybd.training.trusted import trusted_accuracy
from raybd.training_defenses.cbd import CBD, dependency, first_network, second_network
from raybd.training_defenses.cbd.first_network import (
    weights,
)
from raybd.types.data import Dataset, Poisoned
from raybd.types.errors import UserError
from raybd.types.methods import AttackInput, TrainingDefense
from tests.groups import in_group
from tests.some_images import same_weights
from tests.training_defenses.making import NONE, TINY, defend, digits, seeded, unequal_digits


def test_the_guard_wants_a_small_low_mode_of_one_label() -> None:
    rng = seeded(0)
    loss_N = torch.cat([torch.randn(100, generator=rng) - 6, torch.randn(900, generator=rng)]).exp()
    of_one, of_all = (
        torch.cat([torch.zeros(100, dtype=torch.int64), torch.arange(900) % 10]),
        torch.arange(1000) % 10,
    )
    problem, facts = CBD().guard(loss_N, of_one)
    assert problem is None
    assert facts["low mode label share"] == 1
    assert "no small mode near zero of one label" in str(CBD().guard(loss_N, of_all)[0])
    assert "no small mode near zero of one label" in str(
        CBD(largest_mode=0.05).guard(loss_N, of_one)[0]
    )
    assert "no small mode near zero of one label" in str(
        CBD().guard(loss_N * 100, of_one)[0]
    )  # apart, but not known


@pytest.mark.parametrize("equal_scale", [True, False])
def test_the_verdict_suspects_what_the_first_network_knows(equal_scale: bool) -> None:
    """Poison, one image of ten, has low losses in the first network, and high ones in the second.

    Clean images have similar losses in both.
    """
    rng = seeded(0)
    poison = torch.arange(1000) % 10 == 0
    clean_loss = (0.5 * torch.randn(1000, generator=rng)).exp()
    first = torch.where(poison, clean_loss * 1e-3, clean_loss)
    second = torch.where(poison, 3 * clean_loss, clean_loss)
    score, threshold = CBD(equal_scale=equal_scale).verdict(first, second)
    assert (score >= 0).all() and (score <= 1).all()
    assert float(score[poison].min()) > float(score[~poison].max())
    assert torch.equal(score > threshold, poison)


def test_the_guard_stops_where_it_is_told_to() -> None:
    unfit = TINY.model_copy(update={"largest_mode": 0.001})
    with pytest.raises(UserError, match=r"after 10 steps .*\nChange first_steps") as caught:
        defend(unfit.model_copy(update={"on_guard": "stop"}))
    assert caught.value.exit_code == 1
    warned = defend(unfit)
    assert warned.warning is not None and warned.verdict is not None
    assert not (
        warned.verdict.score_N > warned.verdict.threshold_N
    ).any()  # it would flag at random


def test_without_the_dependency_it_is_re_weighting_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a critic was built")

    monkeypatch.setattr("raybd.training_defenses.cbd.second_network.Dependency", refuse)
    cbd, rng = TINY.model_copy(update={"dependency": 0.0, "equal_scale": False}), seeded(3)
    defended = defend(cbd)
    _, first_loss_N, _ = cbd.train_first(digits(), NONE, 10, SmallCnn(width=8), rng)
    torch.randint(2**31, (1,), generator=rng)  # the critic's seed

    def reweighted(model: torch.nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
        loss_B = F.cross_entropy(model(x_BCHW), y_B, reduction="none")
        w_B = weights(first_loss_N[rows_B].float(), loss_B)
        return w_B * (len(w_B) / w_B.sum()) * loss_B

    alone = fit(new_victim(digits(), 10, SmallCnn(width=8), rng), digits(), cbd, rng, reweighted)
    for name, value in alone.state_dict().items():
        assert torch.allclose(defended.victim.state_dict()[name], value, atol=1e-6), name


def test_cites_its_paper_and_documents_its_fields() -> None:
    assert method_class("training_defenses", "cbd") is CBD
    for module in (sys.modules[CBD.__module__], dependency, first_network, second_network):
        assert "arXiv 2303.06818" in (module.__doc__ or "")
    assert all(info.description for info in CBD.model_fields.values())
    assert CBD.model_validate_json(TINY.model_dump_json()) == TINY
    assert isinstance(CBD(), TrainingDefense)
    assert not hasattr(CBD, "train")


def test_search_ranges_hold_the_defaults_or_say_why_not() -> None:
    """A factor whose default is 0 is searched on a logarithmic scale, or left out."""
    for name, info in CBD.model_fields.items():
        search = cast(dict[str, Any], info.json_schema_extra or {}).get("search")
        if search is None:
            continue
        if "choices" in search:
            assert info.default in search["choices"], name
        else:
            assert search["low"] <= info.default <= search["high"] or info.default == 0, name


def test_scores_every_image_within_bounds() -> None:
    verdict = defend(TINY).verdict
    assert verdict is not None
    assert verdict.score_N.shape == (100,)
    assert 0 <= float(verdict.score_N.min()) <= float(verdict.score_N.max()) <= 1
    assert not verdict.oracle


def test_the_same_seed_gives_the_same_result_and_leaves_the_split_alone() -> None:
    before = digits().x_NCHW.clone()
    assert same_weights(defend(TINY).victim, defend(TINY).victim)
    assert torch.equal(digits().x_NCHW, before)


def test_a_resumed_defense_ends_where_the_whole_one_does() -> None:
    kept: dict[str, bytes] = {}

    def save(name: str, data: bytes) -> None:
        kept.setdefault(name, data)  # of each stage, the one after its first epoch

    cbd = TINY.model_copy(update={"dependency": 0.5, "weights_from": "ema", "floor": True})
    whole = defend(cbd, Runtime(save=save, every_seconds=0))
    assert set(kept) == {"cbd first", "cbd second"}
    resumed = defend(cbd, Runtime(load=kept.get))
    assert same_weights(whole.victim, resumed.victim)
    assert whole.verdict is not None and resumed.verdict is not None
    assert torch.equal(whole.verdict.score_N, resumed.verdict.score_N)


def _defend_in_full() -> tuple[dict[str, Tensor], Tensor]:
    defended = defend(TINY.model_copy(update={"dependency": 0.5, "bottleneck": 1e-3}))
    assert defended.verdict is not None
    return dict(defended.victim.state_dict()), defended.verdict.score_N


def test_two_workers_defend_as_one() -> None:
    """Tolerance: sums in another order, through 18 steps; the batch of 33 does not divide."""
    torch.set_num_threads(
        2
    )  # with one, torch sums batch statistics in another order, which is no matter of workers
    weights_of_one, score_N = _defend_in_full()
    (first, first_score_N), (second, second_score_N) = in_group(_defend_in_full)
    for name, value in weights_of_one.items():
        assert torch.allclose(first[name].float(), value.float(), rtol=1e-2, atol=2e-3), name
        assert torch.equal(first[name], second[name]), name
    assert torch.allclose(first_score_N, score_N, atol=5e-3)
    assert torch.equal(first_score_N, second_score_N)


EASY = CBD(
    first_steps=400,
    first_lr=0.05,
    epochs=30,
    batch_size=32,
    lr=0.05,
    schedule="cosine",
    augment="none",
    precision="fp32",
)
"""After 400 steps the first network knows nearly all of these digits."""


def _on_unequal_digits(cbd: CBD) -> tuple[float, str]:
    train, clean, test = unequal_digits()
    defended = cbd.defend(train, 10, SmallCnn(width=8), clean, seeded(1))
    accuracy = trusted_accuracy(defended.victim, test)
    assert accuracy is not None
    return accuracy, defended.warning or ""


def _undefended_on_unequal_digits() -> float:
    train, _, test = unequal_digits()
    recipe = Supervised.model_validate(EASY.model_dump(include=set(Recipe.model_fields)))
    accuracy = trusted_accuracy(recipe.train(train, 10, SmallCnn(width=8), seeded(1)), test)
    assert accuracy is not None
    return accuracy


@pytest.mark.xfail(
    reason="missed by .003 on a processor with avx512_bf16 (.897 for .900), and by 1 to 5 points "
    "on seeds 2 to 4: CBD costs accuracy on unpoisoned easy images (docs/results.md)",
    strict=False,
)
def test_easy_images_of_unequal_classes_are_still_learned() -> None:
    accuracy, warning = _on_unequal_digits(EASY)
    assert accuracy > _undefended_on_unequal_digits() - 0.05
    assert "trusted images" not in warning


def test_one_scale_keeps_what_the_published_weights_lose_and_a_loss_is_said() -> None:
    """Formula (9) as published keeps a third of the accuracy (.32), one scale .90 to .92."""
    accuracy, warning = _on_unequal_digits(EASY)
    published, _ = _on_unequal_digits(EASY.model_copy(update={"equal_scale": False}))
    assert accuracy > published + 0.4
    if accuracy <= _undefended_on_unequal_digits() - 0.05:
        assert "no backdoor is learned first" in warning


def test_a_defense_that_loses_accuracy_on_trusted_images_warns() -> None:
    _, warning = _on_unequal_digits(EASY.model_copy(update={"equal_scale": False}))
    assert "trusted images is 0." in warning and "in the first network" in warning


def test_a_verdict_that_flags_too_many_images_is_refused() -> None:
    score_N = torch.tensor([0.9] * 30 + [0.1] * 70)
    assert "would flag 30% of the images" in str(CBD().flags_too_many(score_N, 0.5))
    assert CBD(largest_mode=0.3).flags_too_many(score_N, 0.5) is None


REAL = CBD(
    first_steps=600,
    first_lr=0.05,
    epochs=15,
    lr=0.05,
    schedule="cosine",
    augment="flip",
    on_guard="stop",
)
"""For 5,000 images of CIFAR-10 and small_cnn."""


@pytest.fixture(scope="module")
def scene(data_root: Path) -> tuple[Dataset, Poisoned]:
    folder = data_root / "cifar10"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    dataset = Cifar10(path=str(folder), limit=5000, test_limit=1000).load()
    return dataset, BadNets(rate=0.1).poison(AttackInput(dataset.train, 10), seeded(0))


@pytest.mark.slow
@pytest.mark.data
def test_it_learns_the_task_without_the_backdoor_and_finds_the_poison(
    scene: tuple[Dataset, Poisoned],
) -> None:
    dataset, poisoned = scene
    defended = REAL.defend(poisoned.over(dataset.train), 10, SmallCnn(), dataset.clean, seeded(1))
    found = measure(defended.victim, dataset, poisoned)
    assert found["attack_success"] is not None and found["clean_accuracy"] is not None
    assert found["attack_success"] < 0.25  # undefended .92
    assert found["clean_accuracy"] > 0.42  # undefended .51 to .56
    verdict = defended.verdict
    assert verdict is not None and defended.warning is None
    judged = detection.detection(
        verdict.score_N, verdict.score_N > verdict.threshold_N, poisoned.role_N(len(dataset.train))
    )
    assert judged["auroc"] is not None and judged["tpr"] is not None and judged["fpr"] is not None
    assert judged["auroc"] > 0.95
    assert judged["tpr"] > 0.6
    assert judged["fpr"] < 0.05


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_guard_refuses_a_first_network_of_80_steps(
    seed: int, scene: tuple[Dataset, Poisoned]
) -> None:
    dataset, poisoned = scene
    short = REAL.model_copy(update={"first_steps": 80})
    with pytest.raises(UserError, match="after 80 steps have no small mode near zero"):
        short.defend(poisoned.over(dataset.train), 10, SmallCnn(), dataset.clean, seeded(seed))


@pytest.mark.slow
@pytest.mark.data
def test_the_guard_refuses_clean_data(scene: tuple[Dataset, Poisoned]) -> None:
    dataset, _ = scene
    with pytest.raises(UserError, match="no small mode near zero"):
        REAL.defend(dataset.train, 10, SmallCnn(), dataset.clean, seeded(1))
