"""Entries of an experiment file that stand for several."""

from typing import Any

import pytest

from raybd.plan.file import parse
from raybd.types.errors import UserError

TRAINER = {"kind": "supervised", "network": "small_cnn", "epochs": 1}


def experiment(attack: Any, **others: Any) -> Any:
    return parse(
        {
            "name": "each",
            "datasets": [{"kind": "digits", "clean": 0.1}],
            "attacks": attack if isinstance(attack, list) else [attack],
            "trainers": [TRAINER],
            **others,
        }
    )


def test_each_value_is_an_entry_with_a_name_of_its_own() -> None:
    found = experiment({"kind": "badnets", "margin": 2, "each": {"rate": [0.05, 0.1]}})
    plain = experiment(
        [
            {"kind": "badnets", "margin": 2, "name": "badnets_0.05", "rate": 0.05},
            {"kind": "badnets", "margin": 2, "name": "badnets_0.1", "rate": 0.1},
        ]
    )
    assert found.attacks == plain.attacks
    # The variants are the cells that would be there if they had been written out.
    assert [cell.id for cell in found.cells()] == [cell.id for cell in plain.cells()]


def test_several_fields_are_all_combinations_in_the_order_of_the_file() -> None:
    found = experiment({"each": {"kind": ["badnets", "blended"], "rate": [0.1, 0.2]}})
    names = [attack.name for attack in found.attacks]
    assert names == ["badnets_0.1", "badnets_0.2", "blended_0.1", "blended_0.2"]


def test_a_name_of_ones_own_is_kept_and_continued() -> None:
    found = experiment({"kind": "badnets", "name": "corner", "each": {"size": [2, 3]}})
    assert [attack.name for attack in found.attacks] == ["corner_2", "corner_3"]


def test_mappings_are_named_by_their_first_word() -> None:
    labels = [{"map": "all_to_one", "target": 3}, {"map": "all_to_all"}]
    found = experiment({"kind": "badnets", "each": {"labels": labels}})
    assert [attack.name for attack in found.attacks] == ["badnets_all_to_one", "badnets_all_to_all"]


def test_networks_have_a_column_of_their_own() -> None:
    trainer = {"kind": "supervised", "epochs": 1, "each": {"network": ["small_cnn", "resnet18"]}}
    found = experiment({"kind": "none"}, trainers=[trainer])
    assert [(one.trainer.name, one.network.name) for one in found.trainings] == [
        ("supervised", "small_cnn"),
        ("supervised", "resnet18"),
    ]


def test_all_lists_may_have_them() -> None:
    found = experiment(
        {"kind": "none"},
        detectors=[{"kind": "spectral", "each": {"remove": [0.1, 0.2]}}],
        repairs=[{"kind": "clp", "each": {"u": [3, 4]}}],
    )
    assert [one.name for one in found.defenses] == [
        "spectral_0.1",
        "spectral_0.2",
        "clp_3",
        "clp_4",
    ]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"kind": "badnets", "each": 3}, "attacks[0].each: 3 names no fields"),
        ({"kind": "badnets", "each": {}}, "attacks[0].each: {} names no fields"),
        ({"kind": "badnets", "each": {"rate": 0.1}}, "attacks[0].each.rate: 0.1 is no list"),
        ({"kind": "badnets", "each": {"rate": []}}, "attacks[0].each.rate: [] is no list"),
        (
            {"kind": "badnets", "rate": 0.1, "each": {"rate": [0.1]}},
            "attacks[0]: rate stands in the entry and under each",
        ),
        (
            {"kind": "badnets", "each": {"size": [3] * 101, "margin": [0] * 100}},
            "attacks[0].each: it stands for 10100 entries",
        ),
        ({"kind": "badnets", "each": {"rate": [0.1, 0.1]}}, "'badnets_0.1' stands there twice"),
        (
            {"kind": "badnets", "each": {"rate": [0.1, 7]}},
            "attacks[0] (rate 7)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        experiment(entry)
    assert said in error.value.what
