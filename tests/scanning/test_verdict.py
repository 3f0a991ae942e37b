"""The verdict in sentences: what it claims with trusted images, without any, and of its power."""

import torch

from raybd.metrics.combining import Cut
from raybd.scanning.judging import Judged, Power
from raybd.scanning.suspects import Layout
from raybd.scanning.verdict import verdict_of

NAMES = ("cat", "dog")


def layout(from_suspects: bool) -> Layout:
    rows = torch.arange(10)
    return Layout(NAMES, rows, rows % 2, rows, rows % 2, rows % 2, "x", from_suspects)


def judged(flagged: int) -> Judged:
    rows = torch.arange(10)
    flagged_N = rows < flagged
    p_N = torch.where(flagged_N, 0.01, 0.5).double()
    return Judged(
        row_N=rows,
        label_N=rows % 2,
        suspicion_N=-p_N,
        p_N=p_N,
        flagged_N=flagged_N,
        cuts={1: Cut(0.01, flagged, 0.02, 0.001)} if flagged else {},
        held=99,
        detector_p_DN=p_N[None],
        decoy_p_L=p_N,
        planted_N=torch.full((10,), -1),
    )


POWER = (
    Power("patch", 0.08, 100, 97, "strong"),
    Power("patch", 0.08, 100, 52, "faint"),
    Power("patch", 0.03, 50, 1, "strong"),
)


def test_beside_trusted_images_a_share_of_false_alarms_is_promised() -> None:
    said = verdict_of(layout(False), judged(3), POWER).sentence
    assert "3 of 10 images look poisoned: 2 labelled 'cat', 1 labelled 'dog'" in said
    assert "at most 5%" in said


def test_without_images_that_are_known_to_be_good_no_side_is_called_poison() -> None:
    said = verdict_of(layout(True), judged(3), POWER)
    assert "look poisoned" not in said.sentence
    assert "5%" not in said.sentence
    assert "either they or the rest may be the poison" in said.sentence
    assert "these are upper bounds" in said.power
    assert "upper bounds" not in verdict_of(layout(False), judged(3), POWER).power


def test_the_power_begins_with_the_faintest_trigger_of_the_largest_share() -> None:
    said = verdict_of(layout(False), judged(0), POWER).power
    assert "a small patch: 0.52 at 8% (faint), 0.97 at 8% (strong), 0.02 at 3% (strong)" in said
    assert "expect the lower number" in said


def test_of_a_model_that_exists_no_power_is_known() -> None:
    said = verdict_of(layout(False), judged(0), (), trained=False)
    assert "nothing can be planted into a model that is trained already" in said.power
    assert "budget" not in said.power
    assert "budget was too small" in verdict_of(layout(False), judged(0), ()).power
    assert "does not mean that they are clean" in said.sentence
