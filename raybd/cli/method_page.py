"""What `raybd show` prints: a method, and its fields as a user writes them in YAML."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen, MultipleOf
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from raybd.types.config import Config

_WORDS = {
    int: "integer",
    float: "number",
    bool: "true or false",
    str: "text",
    Path: "path",
    NoneType: "null",
}
FIELD_COLUMNS = ("field", "type", "default", "what it is")
_PLURALS = {int: "integers", float: "numbers", str: "texts"}


def method_page(role: str, kind: str, method: type[Config]) -> Group:
    """Return the docstring of a method, and a table of its fields."""
    table = Table(*FIELD_COLUMNS, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in field_rows(method):
        # As Text, because rich takes bounds like [x > 0] for markup.
        table.add_row(*map(Text, row))
    return Group(Text(f"{role}/{kind}"), Text(""), Text(description(method)), Text(""), table)


def description(method: type[Config]) -> str:
    """Return the docstring of a method's module: what it does, the paper, what differs from it."""
    # That of the class is a line.
    return (sys.modules[method.__module__].__doc__ or "").strip()


def field_rows(method: type[Config]) -> list[tuple[str, str, str, str]]:
    """Return a row of FIELD_COLUMNS for each field, and for the fields inside of it."""
    return [
        row
        for name, info in method.model_fields.items()
        for row in _rows(name, info, _default_of(info))
    ]


def bounds_of(info: FieldInfo) -> str:
    """Return the bounds of a field as a person writes them, like `0 < x <= 1`; empty if none."""
    lower = upper = ""
    others = []
    for bound in info.metadata:
        match bound:
            case Gt(gt=value):
                lower = f"{_bound(value)} <"
            case Ge(ge=value):
                lower = f"{_bound(value)} <="
            case Lt(lt=value):
                upper = f"< {_bound(value)}"
            case Le(le=value):
                upper = f"<= {_bound(value)}"
            case MultipleOf(multiple_of=value):
                others.append(f"multiple of {value}")
            case MinLen(min_length=value):
                others.append("not empty" if value == 1 else f"at least {value} long")
            case _:
                pass  # what tells pydantic how to parse is no bound

    if lower and upper:
        others.insert(0, f"{lower} x {upper}")
    elif lower:
        value, sign = lower.split()
        others.insert(0, f"{sign.replace('<', '>')} {value}")
    elif upper:
        others.insert(0, upper)
    return ", ".join(others)


def type_words(annotation: Any) -> str:
    """Return a type in plain words: `integer or null`, `cosine, step or constant`."""
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        return type_words(arguments[0])
    if origin is Literal:
        return _either([_yaml(choice) for choice in arguments])
    if origin in (Union, UnionType):
        # Different configs have the same words: each is said once.
        return _either(list(dict.fromkeys(type_words(one) for one in arguments)))
    if origin is tuple:
        return _sequence(arguments)
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return "mapping"
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _rows(name: str, info: FieldInfo, default: Any) -> Iterator[tuple[str, str, str, str]]:
    """Yield the row of a field, then the rows of the fields inside of it."""
    configs = _configs(info.annotation)
    bounds = bounds_of(info)
    what = (info.description or "") + (f" [{bounds}]" if bounds else "")
    shown = "see below" if configs else "required" if info.is_required() else _yaml(default)
    yield name, type_words(info.annotation), shown, what

    # Label maps are a union of configs, which share fields: a field is shown once.
    given = default.model_dump() if isinstance(default, Config) else {}
    inner: dict[str, FieldInfo] = {}
    for config in configs:
        inner = {**config.model_fields, **inner}
    for inner_name, inner_info in inner.items():
        path = f"{name}.{inner_name}"
        value = given.get(inner_name, _default_of(inner_info))
        if _choice(inner_info) is None:
            yield from _rows(path, inner_info, value)
        else:
            meanings = {_choice(one.model_fields[inner_name]): one.__doc__ for one in configs}
            what = " ".join(f"{choice}: {meaning}" for choice, meaning in meanings.items())
            yield path, _either([str(choice) for choice in meanings]), _yaml(value), what


def _default_of(info: FieldInfo) -> Any:
    return None if info.is_required() else info.get_default(call_default_factory=True)


def _configs(annotation: Any) -> list[type[Config]]:
    """Return the configs that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [found for one in get_args(annotation) for found in _configs(one)]


def _choice(info: FieldInfo) -> str | None:
    """Return the only value that a field can have, if there is only one.

    Such a field tells a config from the others of a union, as `map` does for label maps.
    """
    values = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
    return str(values[0]) if len(values) == 1 else None


def _sequence(arguments: tuple[Any, ...]) -> str:
    """Return the words for a tuple of items of one type."""
    item = arguments[0]
    if get_origin(item) is Annotated:
        item = get_args(item)[0]
    plural = _PLURALS.get(item, type_words(item))
    return f"list of {plural}" if arguments[-1] is Ellipsis else f"{len(arguments)} {plural}"


def _either(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _bound(value: Any) -> str:
    """Return a bound; a large power of 2 as such."""
    if isinstance(value, int) and value >= 2**32 and value & (value - 1) == 0:
        return f"2^{value.bit_length() - 1}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _yaml(value: Any) -> str:
    """Return a value as it is written in an experiment file."""
    text = yaml.safe_dump(
        # The width keeps a long list on one line.
        to_jsonable_python(value),
        default_flow_style=True,
        sort_keys=False,
        width=10_000,
    )
    # YAML ends a single word with `...`, which no experiment file needs.
    return text.removesuffix("\n").removesuffix("\n...")
