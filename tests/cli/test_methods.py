"""`raybd list` and `raybd show`: every method, in words that a user of YAML knows."""

import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field
from pydantic.fields import FieldInfo

from raybd.cli.method_page import bounds_of, type_words
from raybd.registry import METHOD_ROLES, Role, method_class, names
from tests.cli.in_process import raybd


def test_list_names_every_method_with_its_first_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raybd(monkeypatch, "list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {(method["role"], method["kind"]) for method in found} == {
        (role, name) for role in METHOD_ROLES for name in names(role)
    }
    assert all(method["summary"] for method in found)
    assert raybd(monkeypatch, "list", "detector") == 0
    assert "strip" in capsys.readouterr().out
    assert raybd(monkeypatch, "list", "detecters") == 2
    assert "Did you mean 'detectors'?" in capsys.readouterr().err
    assert raybd(monkeypatch, "list", "analysis") == 0
    assert "tac" in capsys.readouterr().out
    assert raybd(monkeypatch, "list", "training-defense") == 0
    assert "cbd" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("role", "kind"), [(role, name) for role in METHOD_ROLES for name in names(role)]
)
def test_show_prints_every_field_and_nothing_of_the_inside(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], role: Role, kind: str
) -> None:
    assert raybd(monkeypatch, "show", f"{role}/{kind}") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in method_class(role, kind).model_fields)
    inside = r"raybd\.\w+\.|\b(Gt|Ge|Lt|Le|MultipleOf)\(|Literal\[|<class|typing|NoneType|_Pydantic"
    assert not re.search(inside, out)


def test_show_lists_the_fields_of_a_label_map(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raybd(monkeypatch, "show", "badnets") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "labels.map all_to_one, all_to_all or clean_label all_to_one" in out
    assert "labels.target integer 0 The target class. [>= 0]" in out
    assert "rate number 0.1 Share of the training set that is poisoned. [0 < x <= 1]" in out


BOUNDS = [
    (Field(gt=0), "> 0"),
    (Field(ge=1), ">= 1"),
    (Field(lt=5), "< 5"),
    (Field(gt=0, le=1), "0 < x <= 1"),
    (Field(ge=0.5, lt=2.5), "0.5 <= x < 2.5"),
    (Field(ge=8, multiple_of=8), ">= 8, multiple of 8"),
    (Field(ge=0, lt=2**63), "0 <= x < 2^63"),
    (Field(min_length=1), "not empty"),
    (Field(), ""),
]


@pytest.mark.parametrize(("field", "text"), BOUNDS, ids=[text for _, text in BOUNDS])
def test_bounds_are_written_as_a_person_writes_them(field: FieldInfo, text: str) -> None:
    assert bounds_of(field) == text


TYPES = [
    (int | None, "integer or null"),
    (Literal["cosine", "step", "constant"], "cosine, step or constant"),
    (tuple[float, ...], "list of numbers"),
    (tuple[int, int], "2 integers"),
    (bool | str, "true or false or text"),
    (Path, "path"),
]


@pytest.mark.parametrize(("annotation", "words"), TYPES, ids=[words for _, words in TYPES])
def test_types_are_plain_words(annotation: Any, words: str) -> None:
    assert type_words(annotation) == words


def test_show_of_an_unknown_method_offers_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raybd(monkeypatch, "show", "spektral") == 2
    assert "Did you mean 'spectral'?" in capsys.readouterr().err
