"""TED: ranks, what is kept of large layers, and how unusual ranks are."""

import pytest
import torch
from torch import nn

from raybd.detectors.ted import Ted
from raybd.detectors.ted.ranks import Known, Reader, Sketch, Usual, is_layer
from raybd.types.data import Split
from raybd.types.errors import Infeasible, UserError
from raybd.types.models import Victim
from tests.detectors.conftest import Scene
from tests.small_scene import small_scene, stream


def _on_a_line(places: list[float], classes: list[int]) -> Known:
    return Known(torch.tensor(places)[:, None], torch.tensor(classes), (1,))


def _rank(known: Known, place: float, label: int) -> float:
    return float(known.ranks(torch.tensor([[place]]), torch.tensor([label]))[0, 0])


def test_the_rank_counts_trusted_images_before_the_first_of_the_predicted_class() -> None:
    # Distances .1, .2, .3 of classes 0, 1, 1.
    known = _on_a_line([0.1, 0.2, 0.3], [0, 1, 1])
    assert _rank(known, 0.0, 1) == 1
    assert _rank(known, 0.0, 0) == 0
    assert _rank(known, 0.3, 0) == 2


def test_a_class_without_a_trusted_image_has_the_last_rank() -> None:
    assert _rank(_on_a_line([0.1, 0.2, 0.3], [0, 1, 1]), 0.0, 7) == 3


def test_a_trusted_image_is_not_compared_with_itself() -> None:
    known = _on_a_line([0.0, 0.1, 0.25], [0, 1, 0])
    itself = known.ranks(known.values_MF, known.class_M, itself=True)
    # Class 1 has no other image: all finite distances are nearer.
    assert itself.flatten().tolist() == [1, 2, 1]
    assert known.ranks(known.values_MF, known.class_M).flatten().tolist() == [0, 0, 0]


def test_each_layer_has_its_own_distances() -> None:
    # The second layer has two values, and the order of the images turns round.
    values = torch.tensor([[0.0, 3.0, 4.0], [1.0, 0.0, 1.0]])
    known = Known(values, torch.tensor([0, 1]), (1, 2))
    ranks = known.ranks(torch.zeros(2, 3), torch.tensor([0, 1]))
    assert ranks.tolist() == [[0, 1], [1, 0]]


def test_a_sketch_keeps_distances_on_average() -> None:
    one, two = torch.randn(2, 5000, generator=stream())
    sketches = [Sketch.of(5000, 64, stream(seed)) for seed in range(50)]
    found = [float((sketch(one[None]) - sketch(two[None])).square().sum()) for sketch in sketches]
    assert sum(found) / 50 == pytest.approx(float((one - two).square().sum()), rel=0.1)
    # A single value goes to one group, with either sign.
    single = sketches[0](torch.eye(5000)[:10])
    assert (single.abs().sum(1) == 1).all()
    assert set(single.unique().tolist()) == {-1, 0, 1}


def test_reads_convolutions_activations_and_logits_but_no_shortcuts() -> None:
    assert is_layer(nn.Conv2d(2, 2, 3)) and is_layer(nn.ReLU()) and is_layer(nn.Linear(2, 2))
    assert not is_layer(nn.Conv2d(2, 2, 1)) and not is_layer(nn.BatchNorm2d(2))
    victim, _, clean = small_scene()
    reader = Reader.of(victim, clean.x_NCHW[:2], 40, stream())
    with torch.no_grad():
        values = reader(clean.x_NCHW)
        # Four convolutions and four activations, of which none is as small as 40, and the logits.
        assert reader.widths[-1] == 3 and len(reader.widths) == 9
        assert torch.allclose(values[:, -3:], victim(clean.x_NCHW), atol=1e-6)
        assert torch.equal(reader.classes(values), victim(clean.x_NCHW).argmax(1))
    # A convolution before its batch norm and activation is read as it was.
    assert float(values[:, : reader.widths[0]].min()) < 0


def test_unusual_is_the_distance_in_deviations_along_the_kept_directions() -> None:
    # Ranks that vary by 4 along the first layer and by 1 along the second.
    ranks = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) + 5
    all_of_it = Usual.of(ranks, 1.0)
    # Variances 8 and .5.
    found = all_of_it.distance(torch.tensor([[9.0, 5.0], [5.0, 6.0], [5.0, 5.0]]))
    assert found.tolist() == pytest.approx([2**0.5, 2**0.5, 0.0], abs=1e-4)
    most = Usual.of(ranks, 0.9).distance(torch.tensor([[9.0, 5.0], [5.0, 6.0]]))
    assert most.tolist() == pytest.approx([2**0.5, 0.0], abs=1e-4)


def test_ranks_that_never_vary_give_finite_distances() -> None:
    usual = Usual.of(torch.zeros(5, 3), 0.95)
    assert torch.isfinite(usual.distance(torch.ones(2, 3))).all()


def test_compares_with_images_that_are_predicted_right() -> None:
    victim, suspects, clean = small_scene()
    with torch.no_grad():
        right = victim(clean.x_NCHW).argmax(1) == clean.y_N
    half = torch.randperm(30, generator=stream())[:15]
    verdict = Ted().learn(victim, clean, stream())(suspects)
    assert verdict.facts["compared images"] == float(right[half].sum())
    assert verdict.warning is None
    with torch.no_grad():
        wrong = Split(clean.x_NCHW, (victim(clean.x_NCHW).argmax(1) + 1) % 3)
    verdict = Ted().learn(victim, wrong, stream())(suspects)
    assert verdict.facts["compared images"] == 15
    assert verdict.warning is not None and "fewer than two" in verdict.warning


def test_refuses_an_encoder_and_too_few_trusted_images() -> None:
    victim, _, clean = small_scene()
    encoder = Victim(victim.encoder, None, victim.mean_C, victim.std_C)
    with pytest.raises(Infeasible, match="classifier"):
        Ted().learn(encoder, clean, stream())
    with pytest.raises(UserError, match="3 clean images"):
        Ted().learn(victim, clean.select(torch.arange(3)), stream())


def test_the_threshold_is_that_of_images_which_were_not_learned_from(scene: Scene) -> None:
    # The median: of few images, some have a class of their own, and with it the highest score.
    drawn, kept = scene.rows_of_the_threshold(Ted(fpr=0.5), 30)
    assert drawn <= kept
    assert len(kept) < 30


def test_finds_triggered_test_inputs(scene: Scene) -> None:
    found = scene.found_by(Ted())
    assert found["auroc"] > 0.9
    assert found["fpr"] < 0.05
