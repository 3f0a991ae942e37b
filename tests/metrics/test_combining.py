"""Combined scores: normal scores of ranks, conformal p-values, cuts that chance does not make."""

import pytest
import torch
from scipy.stats import ks_2samp, kstest, norm

from raybd.metrics import combining


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_combined_score_is_the_mean_of_normal_scores_of_ranks() -> None:
    scores = torch.tensor([[10.0, 30.0, 20.0, 30.0], [4.0, 3.0, 2.0, 1.0]])
    # Ranks 1, 3.5, 2, 3.5 and 4, 3, 2, 1, of four samples.
    wanted = [
        (norm.ppf((a - 0.5) / 4) + norm.ppf((b - 0.5) / 4)) / 2
        for a, b in ((1, 4), (3.5, 3), (2, 2), (3.5, 1))
    ]
    assert combining.rank_mean(scores).tolist() == pytest.approx(wanted)


def test_the_unit_of_a_score_plays_no_part() -> None:
    scores = torch.randn(3, 50, generator=stream(0))
    changed = torch.stack([scores[0].exp(), 5 * scores[1] - 7, scores[2]])
    assert torch.allclose(combining.rank_mean(scores), combining.rank_mean(changed))


def test_the_p_value_counts_held_out_scores_that_are_at_least_as_high() -> None:
    held = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = combining.conformal_p(torch.tensor([0.0, 2.0, 2.5, 9.0]), held)
    assert found.tolist() == pytest.approx([5 / 5, 4 / 5, 3 / 5, 1 / 5])


def test_p_values_of_clean_samples_are_uniform() -> None:
    held, fresh = (torch.randn(n, generator=stream(n)) for n in (2000, 500))
    p = combining.conformal_p(fresh, held)
    assert kstest(p.numpy(), "uniform").pvalue > 0.05


def test_folds_that_say_the_same_agree_on_their_p_values() -> None:
    p = (torch.arange(1, 101).double() / 101)[None].expand(2, 100)
    agreed = combining.agreed_p(p, torch.tensor([100, 100]))
    # Half a step lower: the middle of a step stands for it.
    assert torch.allclose(agreed, p[0] - 0.5 / 101)


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_p_values_over_folds_are_uniform_whatever_they_share(correlation: float) -> None:
    common, *own = (torch.randn(500, generator=stream(seed)) for seed in range(3))
    scores = [correlation**0.5 * common + (1 - correlation) ** 0.5 * one for one in own]
    held = [torch.randn(5000, generator=stream(10 + fold)) for fold in range(2)]
    p = torch.stack([combining.conformal_p(*pair) for pair in zip(scores, held, strict=True)])
    agreed = combining.agreed_p(p, torch.tensor([5000, 5000]))
    assert kstest(agreed.numpy(), "uniform").pvalue > 0.05


def exchangeable(seed: int, samples: int = 400, held: int = 50) -> tuple[torch.Tensor, float]:
    """P-values of clean samples over two folds, and of a two-sample test of one of the folds."""
    rng = stream(seed)
    common = torch.randn(samples, generator=rng)
    p = []
    for _ in range(2):
        score = 0.7 * common + 0.7 * torch.randn(samples, generator=rng)
        decoys = 0.98**0.5 * torch.randn(held, generator=rng)
        p.append(combining.conformal_p(score, decoys))
    two = ks_2samp(score.numpy(), decoys.numpy()).pvalue
    return combining.agreed_p(torch.stack(p), torch.tensor([held, held])), float(two)


def test_clean_samples_are_below_a_level_as_often_as_it_says_in_the_mean_over_held_out_ones() -> (
    None
):
    found = [exchangeable(seed)[0] for seed in range(300)]
    for level in (0.05, 0.1, 0.3, 0.5, 0.9):
        shares = torch.tensor([float((p <= level).double().mean()) for p in found])
        error = float(shares.std()) / 300**0.5
        assert abs(float(shares.mean()) - level) < max(4 * error, 0.01), level
        # The rows of one set share their held-out samples, and so their error.
        assert float(shares.std()) > (level * (1 - level) / 400) ** 0.5


def test_one_set_of_held_out_samples_is_told_by_two_samples_and_not_by_the_uniform() -> None:
    found = [exchangeable(seed) for seed in range(100)]
    uniform = torch.tensor([kstest(p.numpy(), "uniform").pvalue for p, _ in found])
    two = torch.tensor([value for _, value in found])
    # A test of independent values refuses most sets in which nothing is wrong.
    assert float((uniform < 0.05).double().mean()) > 0.3
    assert float((two < 0.05).double().mean()) < 0.12


def test_each_p_value_may_have_held_out_samples_of_its_own_number() -> None:
    p = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.2, 0.1]], dtype=torch.float64)
    same = combining.agreed_p(p, torch.tensor([[9, 9, 9], [19, 19, 19]]))
    assert torch.equal(same, combining.agreed_p(p, torch.tensor([9, 19])))
    fewer = combining.agreed_p(p, torch.tensor([[9, 4, 9], [19, 9, 19]]))
    # In the middle of a wider step.
    assert fewer[1] < same[1]


def test_how_often_chance_puts_samples_above_all_held_out_ones() -> None:
    # One sample is above all of M others with probability 1 / (M + 1).
    assert combining.by_chance(1, 1, 9, 0) == pytest.approx(1 / 10)
    # Both of two: the two highest of eleven are one pair of 11 x 10 / 2.
    assert combining.by_chance(2, 2, 9, 0) == pytest.approx(2 / (11 * 10))
    drawn = torch.rand(20_000, 30, generator=stream(4))
    above = (drawn[:, :10] > drawn[:, 10:].max(1, keepdim=True).values).sum(1)
    assert combining.by_chance(2, 10, 20, 0) == pytest.approx(
        float((above >= 2).double().mean()), abs=0.01
    )


def poisoned_class(poison: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """P-values of 10 classes of 200 clean samples, and of poison in class 3; labels; truth."""
    clean = torch.randn(2000, generator=stream(1))
    worn = 6 + torch.randn(poison, generator=stream(2))
    held = torch.randn(199, generator=stream(3))
    p = combining.conformal_p(torch.cat([clean, worn]), held)
    label = torch.cat([torch.arange(2000) % 10, torch.full((poison,), 3)])
    return p, label, torch.arange(2000 + poison) >= 2000


def test_poison_of_one_class_is_flagged_there_alone() -> None:
    p, label, poison = poisoned_class(100)
    flagged, cuts = combining.flag(p, label, 199, fdr=0.05, significance=0.01)
    assert float(flagged[poison].double().mean()) > 0.95
    assert float(poison[flagged].double().mean()) > 0.9
    assert 3 in cuts
    assert cuts[3].level <= combining.FALSE_ALARMS


def test_clean_samples_above_the_level_are_not_flagged_where_chance_explains_them() -> None:
    p, label, _ = poisoned_class(0)
    assert float((p <= 0.01).double().sum()) > 5
    flagged, cuts = combining.flag(p, label, 199, fdr=0.05, significance=0.01)
    assert not flagged.any()
    assert not cuts


def test_one_sample_of_ten_above_all_held_out_ones_is_chance() -> None:
    # A clean one lies there with probability 10 / 209, by either of the two levels up to 1 %.
    p = torch.cat([torch.tensor([1 / 200]), torch.linspace(0.1, 1, 9)])
    assert combining.cut_of(p, 199, fdr=0.06, significance=0.09) is None
    found = combining.cut_of(p, 199, fdr=0.06, significance=0.1)
    assert found is not None
    assert found.chance == pytest.approx(2 * 10 / 209)
    # In one of ten groups it is ten times as likely.
    assert combining.cut_of(p, 199, fdr=0.06, significance=0.1, groups=10) is None


def test_poison_in_all_classes_is_flagged_as_a_whole() -> None:
    p, label, poison = poisoned_class(300)
    label = torch.where(poison, torch.arange(len(p)) % 10, label)
    flagged, cuts = combining.flag(p, label, 199, fdr=0.1, significance=0.01)
    assert float(flagged[poison].double().mean()) > 0.95
    assert -1 in cuts


def test_a_cut_keeps_the_share_of_false_alarms() -> None:
    # 40 of 240 samples below the lowest level: 240 / 200 / 40 = 3 % are expected to be clean.
    p = torch.cat([torch.full((40,), 1 / 200), torch.linspace(0.02, 1, 200)])
    assert combining.cut_of(p, 199, fdr=0.031, significance=0.01) is not None
    assert combining.cut_of(p, 199, fdr=0.029, significance=0.01) is None
    found = combining.cut_of(p, 199, fdr=0.031, significance=0.01)
    assert found is not None
    assert found.false_share == pytest.approx(0.03)
    assert found.flagged == 40
