"""Paired tests and many p-values: textbook values, and statsmodels."""

import pytest
from statsmodels.stats.contingency_tables import mcnemar as reference
from statsmodels.stats.multitest import multipletests

from raybd.metrics.statistics import pairs

P = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205]
Q = [0.008, 0.032, 0.0672, 0.0672, 0.0672, 0.08, 0.0846, 0.205]


def test_mcnemar_is_the_exact_test_of_the_discordant_samples() -> None:
    assert pairs.mcnemar(2, 10) == pytest.approx(0.0386, abs=5e-5)
    for first, second in ((2, 10), (7, 3), (5, 5)):
        table = [[3, first], [second, 4]]
        assert pairs.mcnemar(first, second) == pytest.approx(reference(table, exact=True).pvalue)
    assert pairs.mcnemar(0, 0) == 1


def test_q_values_are_those_of_the_textbook() -> None:
    assert pairs.q_values(P) == pytest.approx(Q, abs=5e-5)
    shuffled = P[::-1]
    assert pairs.q_values(shuffled) == pytest.approx(Q[::-1], abs=5e-5)


def test_a_missing_p_value_is_no_test() -> None:
    assert pairs.q_values([0.02, None, 0.04]) == [0.04, None, 0.04]
    assert pairs.q_values([None]) == [None]
    assert pairs.q_values([]) == []


def test_holm_agrees_with_statsmodels() -> None:
    mixed = [P[k] for k in (3, 0, 7, 1, 5, 2, 6, 4)]
    assert pairs.holm(mixed) == pytest.approx(multipletests(mixed, method="holm")[1])
    assert pairs.holm([0.03, 0.03]) == [0.06, 0.06]
