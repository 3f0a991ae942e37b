"""FLARE: likelihoods under running statistics, the tree of densities, and the split."""

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import linkage as scipy_linkage
from scipy.spatial.distance import squareform
from scipy.stats import norm as normal_distribution
from torch import nn

from raybd.detectors._density import leaving, linkage
from raybd.detectors.flare import Flare, likelihoods
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from tests.small_scene import images, small_scene, stream


def one_norm() -> Victim:
    """Return a victim whose encoder normalises the image twice, with a mean between."""
    first, second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    first.running_mean = torch.tensor([0.1, 0.5, 0.9])
    first.running_var = torch.tensor([0.04, 1.0, 0.25])
    encoder = nn.Sequential(first, nn.AvgPool2d(2), second, nn.Flatten())
    return Victim(encoder, None, torch.zeros(3), torch.ones(3)).eval()


def test_likelihoods_are_the_least_over_channels_and_positions() -> None:
    victim = one_norm()
    split = Split(images(5, 4), torch.zeros(5).long())
    x = victim.preprocess(split.x_NCHW).numpy()
    mean = np.array([0.1, 0.5, 0.9])[:, None, None]
    deviation = np.array([0.2, 1.0, 0.5])[:, None, None]
    expected = normal_distribution.logpdf(x, mean, deviation).min((1, 2, 3))
    found_NL = likelihoods(victim, split)
    assert found_NL.shape == (5, 2)
    assert found_NL[:, 0].numpy() == pytest.approx(expected, rel=1e-4)


def test_one_impossible_pixel_lowers_the_likelihood() -> None:
    victim = one_norm()
    x_NCHW = torch.full((2, 3, 4, 4), 60, dtype=torch.uint8)
    x_NCHW[1, 0, 2, 3] = 255
    found_NL = likelihoods(victim, Split(x_NCHW, torch.zeros(2).long()))
    # (1 - .1) / .2 and (.235 - .9) / .5 deviations from the mean.
    assert float(found_NL[1, 0]) < float(found_NL[0, 0]) - 5


def test_the_tree_is_that_of_single_linkage_on_mutual_reachability() -> None:
    y = np.random.default_rng(0).normal(size=(40, 3))
    distance = np.sqrt(np.square(y[:, None] - y[None]).sum(2))
    core = np.sort(distance, 1)[:, 5]
    mutual = np.maximum(np.maximum(distance, core[:, None]), core[None])
    np.fill_diagonal(mutual, 0)
    expected = scipy_linkage(squareform(mutual), "single")[:, 2]
    assert [edge.distance for edge in linkage(y, 5)] == pytest.approx(list(expected))


def test_rows_leave_the_largest_cluster_at_the_density_of_their_merge() -> None:
    # On a line: three rows one apart, two rows half apart at a distance of 5.
    y = np.array([[0.0], [1.0], [2.0], [7.0], [7.5]])
    density, splits = leaving(linkage(y, 1), 2)
    assert splits == pytest.approx([1 / 5, 1.0])
    assert density[3:].tolist() == pytest.approx([1 / 5, 1 / 5])
    assert density[:3].tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_a_small_branch_is_no_split() -> None:
    y = np.array([[0.0], [1.0], [2.0], [7.0]])
    _, splits = leaving(linkage(y, 1), 2)
    assert splits == pytest.approx([1.0])


class _Color(nn.Module):
    """Gives the normalisation the mean colour, so that likelihoods follow it."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW.mean((2, 3), keepdim=True)


def two_colors(bright: float) -> tuple[Victim, Split, torch.Tensor]:
    """Return a victim that sees the mean colour, 200 images, and which of them are bright."""
    encoder = nn.Sequential(_Color(), nn.BatchNorm2d(3), nn.Flatten())
    victim = Victim(encoder, None, torch.zeros(3), torch.ones(3)).eval()
    bright_N = torch.arange(200) < 200 * bright
    noise_N = torch.randint(-15, 16, (200,), generator=stream())
    level_N = torch.where(bright_N, 200, 60) + noise_N
    x_NCHW = level_N.to(torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4).clone()
    return victim, Split(x_NCHW, torch.zeros(200).long()), bright_N


def test_the_smaller_cluster_is_flagged() -> None:
    victim, suspects, bright_N = two_colors(0.25)
    verdict = Flare(smallest=20, neighbours=5).score(victim, suspects, suspects, stream())
    flagged_N = verdict.score_N > verdict.threshold_N
    assert flagged_N[bright_N].all()
    assert flagged_N[~bright_N].double().mean() < 0.1
    assert verdict.facts["layers left out"] == 0


def test_a_split_that_leaves_too_few_clean_images_does_not_count() -> None:
    victim, suspects, _ = two_colors(0.25)
    strict = Flare(smallest=20, neighbours=5, least_clean=0.8)
    verdict = strict.score(victim, suspects, suspects, stream())
    assert not (verdict.score_N > verdict.threshold_N).any()


def test_without_a_lasting_split_nothing_is_flagged() -> None:
    victim, suspects, clean = small_scene()
    verdict = Flare().score(victim, suspects, clean, stream())
    assert not (verdict.score_N > verdict.threshold_N).any()
    assert "no cluster" in str(verdict.warning)


def test_a_network_without_batch_normalisation_is_refused() -> None:
    victim, suspects, clean = small_scene()
    assert Flare().cannot(victim.encoder, 3) is None
    plain = Victim(nn.Sequential(nn.Flatten()), None, victim.mean_C, victim.std_C)
    assert "batch normalisation" in str(Flare().cannot(plain.encoder, 3))
    with pytest.raises(Infeasible, match="batch normalisation"):
        Flare().score(plain, suspects, clean, stream())
