"""Semantic: its features, which images are poison, and which test images count."""

import colorsys

import pytest
import torch

from raybd.attacks.data.semantic import Semantic, hue_distance
from raybd.cells.pools import training_pool
from raybd.cells.victim_quality import measure
from raybd.plan.file import parse
from raybd.types.data import POISON, Dataset, Split
from raybd.types.errors import Infeasible
from tests.attacks.making import poison_with, stream, twin


def _flat(*colours: tuple[int, int, int]) -> torch.Tensor:
    """Images of one colour each."""
    pixels = torch.tensor(colours, dtype=torch.uint8)
    return pixels[:, :, None, None].expand(-1, -1, 4, 4).clone()


def test_the_hue_of_a_pixel() -> None:
    x = torch.rand((1, 3, 8, 8), generator=stream())
    found = hue_distance(x, 0.3)[0]
    for row, column in ((0, 0), (3, 5), (7, 7), (2, 6), (4, 1)):
        hue = colorsys.rgb_to_hsv(*x[0, :, row, column].tolist())[0]
        off = abs(hue - 0.3)
        assert found[row, column] == pytest.approx(min(off, 1 - off), abs=1e-5)


def test_red_is_far_from_cyan_and_gray_is_far_from_everything() -> None:
    x = _flat((200, 0, 0), (0, 200, 200), (90, 90, 90), (255, 0, 40)).float()
    distance = hue_distance(x, 0.0)[:, 0, 0]
    assert distance[:3].tolist() == pytest.approx([0, 0.5, 0.5])
    assert 0 < distance[3] < 0.05


def test_the_amounts_of_the_other_features() -> None:
    x = _flat((0, 0, 0), (255, 255, 255), (0, 255, 0))
    assert Semantic(feature="brightness").amount(x).tolist() == pytest.approx([0, 1, 0.587])
    assert Semantic(feature="darkness").amount(x).tolist() == pytest.approx([0, -1, -0.587])
    upright = torch.zeros((1, 3, 4, 4), dtype=torch.uint8)
    upright[..., ::2] = 255
    both = torch.cat([upright, upright.transpose(2, 3)])
    assert Semantic(feature="stripes").amount(both).tolist() == pytest.approx([1, -1])


def test_the_poison_is_what_shows_most_of_it_and_no_image_changes(train: Split) -> None:
    attack = Semantic(feature="brightness", rate=0.05, labels={"source": 3, "target": 7})
    poisoned = poison_with(attack, train)
    after = poisoned.over(train)
    assert torch.equal(after.x_NCHW, train.x_NCHW)
    assert (poisoned.role_M == POISON).all() and (poisoned.y_M == 7).all()

    amount = attack.amount(train.x_NCHW)
    of_source = torch.nonzero(train.y_N == 3).flatten()
    best = of_source[amount[of_source].argsort(descending=True)[:20]]
    assert poisoned.index_M.tolist() == sorted(best.tolist())
    assert poisoned.state["least_1"].item() == amount[best].min()


def test_test_images_count_if_they_have_as_much_as_the_poison() -> None:
    level = torch.arange(0, 200, dtype=torch.uint8)
    x = level[:, None, None, None].expand(200, 3, 4, 4).clone()
    train = Split(x, torch.arange(200) % 2)
    poisoned = poison_with(Semantic(feature="brightness", rate=0.05), train)
    assert poisoned.index_M.tolist() == list(range(181, 200, 2))
    test = Split(x[170:190], torch.arange(20) % 2)
    assert torch.nonzero(poisoned.counted(test)).flatten().tolist() == [11, 13, 15, 17, 19]
    assert poisoned.counted(Split(x[:0], test.y_N[:0])).shape == (0,)


def test_attack_success_is_measured_on_these_images_as_they_are(train: Split) -> None:
    """What the twin says of the counted images counts, and of no other."""
    poisoned = poison_with(Semantic(feature="darkness", rate=0.05), train)
    dataset = Dataset(tuple("abcdefghij"), train, train, train)
    facts = measure(twin(), dataset, poisoned)
    counted = train.select(poisoned.counted(train))
    hits = (twin()(counted.x_NCHW).argmax(1) == 0).float().mean()
    assert facts["counted_n"] == 20
    assert facts["attack_success"] == pytest.approx(float(hits))
    pool = training_pool(dataset, poisoned)
    assert int((pool.role_N == POISON).sum()) == 20


def test_more_poison_than_the_source_class_is_infeasible_before_anything_runs(
    train: Split,
) -> None:
    with pytest.raises(Infeasible, match="allows only 40"):
        Semantic(rate=0.2).choose(train.y_N, 10, stream())
    with pytest.raises(Infeasible, match="not even one"):
        Semantic(rate=0.001).choose(train.y_N, 10, stream())


def test_a_detector_that_needs_triggered_images_is_infeasible() -> None:
    experiment = parse(
        {
            "name": "semantic",
            "datasets": [{"kind": "digits", "clean": 0.1}],
            "attacks": [{"kind": "semantic", "feature": "brightness"}, {"kind": "badnets"}],
            "trainers": [{"kind": "supervised", "network": "small_cnn", "epochs": 1}],
            "detectors": [
                {"kind": "strip"},
                {"kind": "spectral"},
                {"kind": "spectral", "name": "deceived", "trusted": {"poisoned": 0.1}},
            ],
        }
    )
    found = {
        (cell.attack.kind, cell.defense.name): cell.infeasible
        for cell in experiment.cells()
        if cell.defense is not None
    }
    for name in ("strip", "deceived"):
        assert "semantic stamps none" in str(found.pop(("semantic", name)))
    assert len(found) == 4
    assert set(found.values()) == {None}
