import numpy as np
import pytest
from scipy.stats import false_discovery_control, wilcoxon

from raybd.metrics.statistics.bootstrap import mean_over_clusters
from raybd.metrics.statistics.differences import differences


def drawn() -> tuple[np.ndarray, list[int], list[str]]:
    rng = np.random.default_rng(3)
    cluster_P = [at // 3 for at in range(30)]
    stratum_P = ["a" if at < 15 else "b" for at in range(30)]
    return rng.random((30, 3)) + np.array([0.3, 0.0, 0.0]), cluster_P, stratum_P


def test_a_pair_has_the_interval_of_its_differences() -> None:
    value_PM, cluster_P, stratum_P = drawn()
    for one in differences(value_PM, cluster_P, np.random.default_rng(0), stratum_P):
        apart = value_PM[:, one.first] - value_PM[:, one.second]
        exact = mean_over_clusters(apart, cluster_P, np.random.default_rng(0), stratum_P)
        assert one.mean.value == pytest.approx(exact.value)
        assert (one.mean.low, one.mean.high) == (
            pytest.approx(exact.low),
            pytest.approx(exact.high),
        )
        assert (one.higher, one.lower, one.of) == ((apart > 0).sum(), (apart < 0).sum(), 30)


def test_q_values_are_over_all_pairs() -> None:
    value_PM, cluster_P, _ = drawn()
    found = differences(value_PM, cluster_P, np.random.default_rng(0))
    p = [wilcoxon(value_PM[:, one.first] - value_PM[:, one.second]).pvalue for one in found]
    assert [one.q for one in found] == pytest.approx(false_discovery_control(p).tolist())


def test_one_cluster_gives_no_interval_and_equal_methods_do_not_differ() -> None:
    value_PM = np.tile(np.array([[0.1], [0.4]]), (1, 2))
    (one,) = differences(value_PM, ["x", "x"], np.random.default_rng(0))
    assert (one.mean.value, one.mean.low, one.higher, one.lower, one.q) == (0, None, 0, 0, 1)
