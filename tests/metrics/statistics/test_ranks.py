"""Ranks, worst cases, clusters and cliques: golden values, scikit-posthocs, simulation."""

import numpy as np
import pytest
import scikit_posthocs

from raybd.metrics.statistics import bootstrap, cliques, ranks


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_ranks_are_means_over_problems_and_ties_share() -> None:
    value = np.array([[0.9, 0.8, 0.1], [0.5, 0.5, 0.7]])
    found = ranks.rankings(value, ["a", "b"], rng())
    assert [one.rank.value for one in found] == [1.75, 2.25, 2.0]
    assert [one.common for one in found] == [2, 2, 2]
    lower = ranks.rankings(value, ["a", "b"], rng(), higher_is_better=False)
    assert [one.rank.value for one in lower] == [2.25, 1.75, 2.0]


def test_to_permute_the_methods_permutes_their_ranks() -> None:
    value = rng().normal(size=(12, 4))
    order = [2, 0, 3, 1]
    cluster = [k // 2 for k in range(12)]
    found = ranks.rankings(value, cluster, rng(1))
    permuted = ranks.rankings(value[:, order], cluster, rng(1))
    assert permuted == [found[k] for k in order]


def test_a_failed_method_has_the_worst_rank_and_an_infeasible_one_counts_for_nobody() -> None:
    nan = np.nan
    value = np.array([[nan, 0.1, 0.2], [nan, 0.9, 0.2], [nan, 0.3, 0.5], [0.1, 0.2, 0.3]])
    failed = np.zeros((4, 3), bool)
    failed[0, 0] = True
    infeasible = np.zeros((4, 3), bool)
    infeasible[1, 0] = True
    # Problem 2 was not run by method 0.
    found = ranks.rankings(value, list("abcd"), rng(), failed_PM=failed, infeasible_PM=infeasible)
    assert [one.rank.value for one in found] == [3.0, 2.0, 1.0]
    assert [one.coverage for one in found] == pytest.approx([2 / 3, 1, 1])
    assert found[0].common == 2


def test_problems_with_nothing_in_common_are_refused() -> None:
    value = np.array([[np.nan, 1.0], [1.0, np.nan]])
    with pytest.raises(ValueError, match="no problem has values of all methods"):
        ranks.rankings(value, ["a", "b"], rng())


def test_who_is_best_is_a_share_of_the_draws() -> None:
    always = ranks.rankings(np.array([[2.0, 1.0]] * 5), list("abcde"), rng())
    assert [one.best for one in always] == [1, 0]
    tied = ranks.rankings(np.ones((5, 2)), list("abcde"), rng())
    assert [one.best for one in tied] == [0.5, 0.5]


def test_problems_of_one_attack_are_one_cluster() -> None:
    value = np.array([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0], [1.0, 2.0]])
    found = ranks.rankings(value, ["a", "a", "b", "b"], rng())
    alone = ranks.rankings(value, ["a", "b", "c", "d"], rng())
    assert found[0].rank.n == 2
    assert found[0].rank.low is not None
    assert alone[0].rank.low is not None
    assert found[0].rank.low <= alone[0].rank.low
    # With one attack in each data set there is nothing to draw.
    single = ranks.rankings(value[1:3], ["a", "b"], rng(), stratum_P=["x", "y"])
    assert single[0].rank.low is None


@pytest.mark.parametrize(("clusters", "size"), [(8, 3), (20, 2)])
def test_an_interval_by_clusters_holds_the_true_mean_as_often_as_it_says(
    clusters: int, size: int
) -> None:
    draws = rng(4)
    names = [k // size for k in range(clusters * size)]
    holds = []
    for _ in range(500):
        value = np.repeat(draws.normal(size=clusters), size) + draws.normal(size=clusters * size)
        found = bootstrap.mean_over_clusters(value, names, draws)
        holds.append(found.low is not None and found.low <= 0 <= (found.high or -1))
    assert 0.93 <= np.mean(holds) <= 0.97


def test_single_values_instead_of_clusters_would_hold_less_often() -> None:
    draws = rng(5)
    holds = []
    for _ in range(200):
        value = np.repeat(draws.normal(size=8), 3) + 0.3 * draws.normal(size=24)
        found = bootstrap.mean_over_clusters(value, range(24), draws)
        holds.append(found.low is not None and found.low <= 0 <= (found.high or -1))
    assert np.mean(holds) < 0.85


def test_clusters_are_drawn_within_their_strata() -> None:
    # Each data set has one value: however attacks are drawn within it, the mean stays.
    value = np.array([0.0, 0.0, 1.0, 1.0])
    found = bootstrap.mean_over_clusters(value, list("abab"), rng(), stratum_N=list("xxyy"))
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)
    assert found.n == 4


def test_the_difference_of_two_methods_uses_the_same_images() -> None:
    draws = rng(6)
    image = draws.random(300) < 0.7
    first = np.stack([image ^ (draws.random(300) < 0.02) for _ in range(4)]).astype(float)
    second = np.stack([image ^ (draws.random(300) < 0.02) for _ in range(4)]).astype(float)
    found = bootstrap.difference_in_two_levels(first, second, draws)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high
    # The same numbers of the second method on other images: what the pairs share is lost.
    unpaired = bootstrap.difference_in_two_levels(first, draws.permutation(second, axis=1), draws)
    assert unpaired.low is not None
    assert unpaired.high is not None
    assert found.high - found.low < 0.7 * (unpaired.high - unpaired.low)
    assert bootstrap.difference_in_two_levels(first[:1], second[:1], draws).low is None


def test_the_worst_attack_has_its_interval_and_the_minimum_another() -> None:
    value = np.array([[0.9, 0.92, 0.94], [0.5, 0.6, 0.7], [0.6, 0.62, 0.64]])
    found = ranks.worst_case(value, rng())
    assert found.attack == 1
    assert found.own.value == pytest.approx(0.6)
    assert found.own.low == pytest.approx(0.6 - 0.2484, abs=1e-3)
    assert found.minimum.value == pytest.approx(0.6)
    # Seeds of the worst attack reach 0.7. The minimum does not: then another attack is the worst.
    assert found.minimum.high is not None
    assert found.minimum.high <= 0.64
    assert found.minimum.low == 0.5
    worst = ranks.worst_case(value, rng(), higher_is_better=False)
    assert worst.attack == 0
    assert ranks.worst_case(value[:, :1], rng()).minimum.low is None


def test_critical_differences_are_nemenyis() -> None:
    assert cliques.nemenyi_difference(5, 30) == pytest.approx(1.114, abs=1e-3)
    assert cliques.nemenyi_difference(18, 12) == pytest.approx(7.6, abs=0.05)


def three_methods() -> np.ndarray:
    """A good method, and two that differ by noise alone, on 20 problems."""
    draws = rng(7)
    common = draws.normal(size=20)
    return np.stack([common + draws.normal(size=20) + shift for shift in (0, 4, 0.1)], axis=1)


def test_friedman_and_nemenyi_agree_with_scikit_posthocs() -> None:
    value = three_methods()
    assert cliques.friedman(value) < 1e-4
    p = scikit_posthocs.posthoc_nemenyi_friedman(value).to_numpy()
    rank = ranks.ranks(-value, np.zeros(value.shape, bool)).mean(0)
    apart = np.abs(rank[:, None] - rank) > cliques.nemenyi_difference(3, 20)
    assert (apart == (p < 0.05)).all()


def test_a_clique_holds_what_cannot_be_told_apart() -> None:
    value = three_methods()
    found = cliques.cliques(value)
    assert [set(one) for one in found] == [{0, 2}]
    # Four problems can show no difference (p >= 1/8). The better methods come first.
    assert cliques.cliques(value[:4])[0][0] == 1
    assert set(cliques.cliques(value[:4])[0]) == {0, 1, 2}
    assert cliques.cliques(np.ones((6, 3))) == [(0, 1, 2)]
    reference = scikit_posthocs.posthoc_wilcoxon(value.T.tolist(), p_adjust="holm").to_numpy()
    assert (reference[0, 2] > 0.05) and (reference[0, 1] < 0.05) and (reference[1, 2] < 0.05)
