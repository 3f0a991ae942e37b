"""AGPD: gradients at all layers, the dispersion of a class, and the filter."""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from raybd.detectors.agpd import AGPD
from raybd.detectors.agpd.directions import Directions, cosine, gap, towards
from raybd.detectors.agpd.filter import Stop, filtered, jensen_shannon, rest, rounds
from raybd.networks.vit_tiny import VitTiny
from raybd.training.models import new_victim
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from tests.detectors.conftest import Scene
from tests.small_scene import small_scene, stream

AT_REST = Stop("window", 0.05, 10)
TRUSTED = Stop("trusted", 0.05, 10)


def test_the_dispersion_of_two_opposite_directions_is_two() -> None:
    c_D = torch.tensor([1.0, 0.0])
    g_ND = torch.stack([c_D, -c_D, -c_D, c_D])
    # Every difference of the two cosines is 2 or -2.
    assert float(gap(cosine(g_ND, c_D), cosine(g_ND, -c_D))) == pytest.approx(2)
    assert float(gap(cosine(g_ND, c_D), cosine(g_ND, c_D))) == 0


def test_gradients_are_those_of_the_labels_logit_averaged_over_positions() -> None:
    victim, suspects, _ = small_scene()
    few = suspects.select(torch.arange(4))
    directions = Directions(victim, few.x_NCHW, 3)
    assert list(directions.widths.values()) == [8, 16, 32, 32]

    found = directions.of(few, 2)
    encoder, head = victim.encoder, victim.head
    assert isinstance(encoder, nn.Sequential) and head is not None
    # The first convolution and the last one.
    for place, layer in ((0, 0), (9, 3)):
        out = encoder[: place + 1](victim.preprocess(few.x_NCHW)).detach().requires_grad_()
        logit = head(encoder[place + 1 :](out))[:, 2].sum()
        (gradient,) = torch.autograd.grad(logit, out)
        assert torch.allclose(found[layer], gradient.mean((2, 3)), atol=1e-6)
    assert all(parameter.grad is None for parameter in victim.parameters())
    # No hook remains.
    assert torch.equal(directions.of(few, 2)[0], found[0])


def test_closeness_is_the_share_of_the_distance_on_the_scale_of_all() -> None:
    to_trusted_N = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    to_suspects_N = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    # Shares 2 / 2, 1 / 2 and 0 / 2.
    assert towards(to_trusted_N, to_suspects_N).tolist() == [1, 0.5, 0]
    equal_N = torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert towards(equal_N, equal_N).tolist() == [0, 0]


def two_directions(clean: int = 60, poison: int = 30, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return gradients about two orthogonal directions; the last ones are poison."""
    rng = stream(seed)
    g_ND = 0.15 * torch.randn((clean + poison, 4), generator=rng)
    g_ND[:clean, 0] += 1
    g_ND[clean:, 1] += 1
    return g_ND, torch.arange(clean + poison) >= clean


def test_images_join_the_suspects_round_by_round_the_closest_first() -> None:
    g_ND, poison_N = two_directions()
    round_N, closeness = rounds(g_ND, cosine(g_ND, torch.eye(4)[0]), 0.05)
    assert int((round_N == -1).sum()) == 1
    assert poison_N[round_N == -1].all()
    assert sorted(set(round_N.tolist())) == list(range(-1, len(closeness)))
    assert all(float(r_M.min()) == 0 for r_M in closeness)
    assert round_N[poison_N].double().mean() < round_N[~poison_N].double().mean() - 2


@pytest.mark.parametrize("by", ["trusted", "window"])
def test_the_filter_finds_the_second_direction(by: Literal["trusted", "window"]) -> None:
    g_ND, poison_N = two_directions()
    held_MD, _ = two_directions(40, 0, seed=1)
    found = filtered(g_ND, held_MD, torch.eye(4)[0], 0.05, Stop(by, 0.05, 10))
    ranks = found.closeness_N.argsort(descending=True)
    assert poison_N[ranks[:30]].double().mean() > 0.9
    if by == "trusted":
        assert found.inside_N[poison_N].double().mean() > 0.8
        assert found.inside_N[~poison_N].double().mean() < 0.2
        assert found.held_share <= 0.05
        assert found.chance < 1e-3


def test_without_a_second_direction_trusted_images_are_as_close() -> None:
    g_ND, _ = two_directions(90, 0)
    held_MD, _ = two_directions(40, 0, seed=1)
    assert filtered(g_ND, held_MD, torch.eye(4)[0], 0.05, TRUSTED).chance > 0.01


def test_two_images_have_no_rounds_to_compare() -> None:
    g_ND, _ = two_directions(1, 1)
    found = filtered(g_ND, g_ND[:0], torch.eye(4)[0], 0.05, AT_REST)
    assert found.inside_N.tolist() == [False, True]
    assert found.chance == 1


def test_the_window_with_the_least_mean_and_spread_is_rest() -> None:
    assert rest([0.5, 0.5, 0.1, 0.1, 0.3], 2) == 2
    # Steady at .3 is better than .1 and .4 in turn.
    assert rest([0.1, 0.4, 0.3, 0.3], 2) == 2
    assert rest([0.3, 0.2], 10) == 0
    assert rest([], 10) == 0


def test_the_distance_of_histograms_without_overlap() -> None:
    first_B = torch.tensor([4.0, 0.0])
    assert jensen_shannon(first_B, torch.tensor([0.0, 2.0])) == pytest.approx(
        math.sqrt(math.log(2))
    )
    assert jensen_shannon(first_B, first_B) == 0


def test_the_layer_is_that_at_which_a_class_stands_out_most() -> None:
    gap_KL = torch.tensor([[0.1, 0.9], [0.2, 0.1], [0.3, 0.2], [0.4, 0.3], [0.5, 0.15]]).double()
    layer, index_K, target_K = AGPD().targets(gap_KL)
    assert layer == 1
    assert target_K.tolist() == [True, False, False, False, False]
    # Median .2, deviations .7 .1 0 .1 .05, their median .1.
    assert float(index_K[0]) == pytest.approx(0.7 / (1.4826 * 0.1))


def test_the_fallback_looks_at_the_three_layers_before_the_last() -> None:
    gap_KL = torch.full((5, 5), 0.1).double() + 0.01 * torch.arange(5)[:, None]
    gap_KL[2, 0], gap_KL[1, 2], gap_KL[3, 4] = 0.13, 0.31, 0.13
    lenient = AGPD(threshold=100, fallback_gap=0.3)
    layer, _, target_K = lenient.targets(gap_KL)
    assert layer == 2
    assert target_K.tolist() == [False, True, False, False, False]
    assert not AGPD(threshold=100).targets(gap_KL)[2].any()


def test_a_class_without_trusted_images_is_not_flagged() -> None:
    victim, suspects, clean = small_scene()
    verdict = AGPD(threshold=0.1).score(victim, suspects, clean.select(clean.y_N > 0), stream())
    mine = suspects.y_N == 0
    assert not (verdict.score_N > verdict.threshold_N)[mine].any()
    assert torch.isfinite(verdict.score_N).all()


def test_it_says_what_it_cannot_look_at() -> None:
    victim, suspects, clean = small_scene()
    encoder, head = VitTiny(width=16, depth=1, heads=1).build(3, 16)
    assert AGPD().cannot(victim.encoder, 3) is None
    assert AGPD().cannot(nn.Linear(2, 2), 3) == "agpd needs convolutions"
    # Its patches are cut out by a convolution.
    assert AGPD().cannot(encoder, 3) is None
    headless = Victim(victim.encoder, None, victim.mean_C, victim.std_C)
    with pytest.raises(Infeasible, match="classifier"):
        AGPD().score(headless, suspects, clean, stream())
    with pytest.raises(Infeasible, match="convolutions"):
        AGPD().score(
            Victim(nn.Flatten(), head, victim.mean_C, victim.std_C), suspects, clean, stream()
        )


def test_it_runs_on_a_transformer() -> None:
    _, suspects, clean = small_scene()
    victim = new_victim(suspects, 3, VitTiny(width=16, depth=1, heads=1), stream()).eval()
    assert torch.isfinite(AGPD().score(victim, suspects, clean, stream()).score_N).all()


def test_it_finds_badnets(scene: Scene) -> None:
    found = scene.found_by(AGPD())
    assert found["auroc"] > 0.9
    assert found["tpr"] > 0.7
    assert found["fpr"] < 0.06
