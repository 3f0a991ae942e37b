"""--set: what it changes, and what it says where it can change nothing."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from raybd.plan.file import load, parse
from raybd.plan.overrides import EXAMPLE, set_value
from raybd.types.errors import UserError
from tests.paths import REPO
from tests.tiny_cells import TINY


def raw() -> dict[str, Any]:
    return {
        "name": "x",
        "attacks": [{"kind": "none"}, {"kind": "badnets", "name": "small", "rate": 0.1}],
        "trainers": [{"kind": "supervised", "network": "small_cnn"}],
        "resources": None,
    }


@pytest.mark.parametrize("entry", ["1", "badnets", "small"])
def test_an_entry_is_named_by_its_number_kind_or_name(entry: str) -> None:
    changed = raw()
    set_value(changed, f"attacks.{entry}.rate=0.05")
    assert changed["attacks"] == [{"kind": "none"}, {**raw()["attacks"][1], "rate": 0.05}]


def test_a_block_that_the_file_leaves_out_is_added() -> None:
    changed = raw()
    set_value(changed, "resources.workers=2")
    set_value(changed, "canaries.rate=0.1")
    assert changed["resources"] == {"workers": 2}
    assert changed["canaries"] == {"rate": 0.1}


REFUSED = [
    ("attacks.9.rate=1", "attacks.9: attacks has these entries: 0 none, 1 small", "attacks.0."),
    ("attacks.-1.rate=1", "these entries: 0 none, 1 small", "attacks.0."),
    ("attacks.blended.rate=1", "these entries: 0 none, 1 small", "attacks.0."),
    ("attacks.9=1", "these entries: 0 none, 1 small", "attacks.0."),
    ("attacks.1.=1", "a name is missing beside a dot", "attacks.1.rate=0.05"),
    ("=1", "a name is missing beside a dot", "attacks.1.rate=0.05"),
    ("attacks.1.rate", "no '='", "attacks.1.rate=0.05"),
    ("trainers.0.network.width=8", "trainers.0.network is 'small_cnn', and has no fields", "kind:"),
    ("name.deep.er=1", "name is 'x', and has no fields", "name={kind:"),
    ("seeds=[1", "the value is not YAML", "attacks.1.rate=0.05"),
]


@pytest.mark.parametrize(("override", "what", "hint"), REFUSED, ids=[one[0] for one in REFUSED])
def test_what_leads_nowhere_is_told_with_what_there_is(override: str, what: str, hint: str) -> None:
    with pytest.raises(UserError) as refused:
        set_value(raw(), override)
    assert what in refused.value.what
    assert "Error" not in refused.value.what
    assert hint in refused.value.hint


def test_two_entries_of_one_kind_are_told_apart_by_their_numbers() -> None:
    twice: dict[str, Any] = {
        "attacks": [{"kind": "badnets", "name": "a"}, {"kind": "badnets", "name": "b"}]
    }
    with pytest.raises(UserError, match="several entries are named so"):
        set_value(twice, "attacks.badnets.rate=0.1")
    set_value(twice, "attacks.b.rate=0.1")
    assert twice["attacks"][1]["rate"] == 0.1


def test_the_example_of_the_messages_can_be_used_on_the_quickstart() -> None:
    words = EXAMPLE.replace(",", " ").split()
    examples = [word.rstrip(".") for word in words if "=" in word]
    assert len(examples) == 2
    for example in examples:
        asked = load(REPO / "configs/quickstart.yaml", [example])
        assert asked.attacks[1].describe()["rate"] == 0.05


def test_a_single_value_for_a_list_is_a_list_of_it(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "one",
                "datasets": {"kind": "digits"},
                "attacks": {"kind": "badnets_multi", "labels": {"map": "every_other"}},
                "trainers": [{"kind": "supervised", "network": "small_cnn"}],
            }
        )
    )
    asked = load(path, ["seeds=3"])
    assert asked.seeds == (3,)
    assert [method.kind for method in asked.datasets] == ["digits"]
    assert [method.kind for method in asked.attacks] == ["badnets_multi"]
    # What is no list stays as it is.
    assert load(path, ["attacks={kind: badnets, rate: 0.2}"]).attacks[0].describe()["rate"] == 0.2


def test_a_kind_alone_is_an_entry_that_an_override_may_give_fields(tmp_path: Path) -> None:
    short = {**TINY, "attacks": ["none", "badnets"]}
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump(short), encoding="utf-8")
    long = parse({**TINY, "attacks": [{"kind": "none"}, {"kind": "badnets", "rate": 0.05}]})
    changed = load(path, ["attacks.badnets.rate=0.05"])
    assert [cell.id for cell in changed.cells()] == [cell.id for cell in long.cells()]
    whole = parse({**TINY, "attacks": [{"kind": "none"}, {"kind": "badnets"}]})
    assert [cell.id for cell in load(path).cells()] == [cell.id for cell in whole.cells()]
