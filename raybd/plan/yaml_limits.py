"""Bounds for a YAML file, checked before it is loaded: a few lines may stand for gigabytes."""

from typing import Any

import yaml

MAX_BYTES = 2**18
"""Size of a file: some hundred times that of the largest experiment file in configs/."""
MAX_VALUES = 20_000
"""Values of a file, in all."""
MAX_DEPTH = 30
"""Lists and mappings inside of each other. PyYAML needs several Python calls for each level."""
MAX_SCALAR = 10_000
"""Characters of one value."""
MAX_EXPANDED = 2**20
"""Characters and values of a file when each alias is replaced by what it stands for."""


class TooLarge(ValueError):
    """A file that is larger, deeper or longer than any experiment."""


def check_size(text: str) -> None:
    """Raise TooLarge if a YAML text exceeds one of the bounds.

    The text is read as a stream of events, which takes no recursion, and ends at the first event
    beyond a bound.
    """
    if len(text) > MAX_BYTES:
        raise TooLarge(f"more than {MAX_BYTES} bytes")

    size = 0
    values = 0
    # Of each list or mapping that is open: its anchor, and the size that was read before it.
    opened: list[tuple[str | None, int]] = []
    sizes: dict[str, int] = {}
    for event in yaml.parse(text, yaml.SafeLoader):
        values += isinstance(event, yaml.NodeEvent)
        if values > MAX_VALUES:
            raise TooLarge(f"more than {MAX_VALUES} values")

        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, size))
            size += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            _remember(sizes, anchor, size - before)
        elif isinstance(event, yaml.ScalarEvent):
            size += _length(event)
            _remember(sizes, event.anchor, _length(event))
        elif isinstance(event, yaml.AliasEvent):
            # An alias inside of what it stands for has no end.
            if any(event.anchor == anchor for anchor, _ in opened):
                raise TooLarge("an alias stands for something that holds it")
            size += sizes.get(str(event.anchor), 1)

        if len(opened) > MAX_DEPTH:
            raise TooLarge(f"more than {MAX_DEPTH} lists and mappings inside of each other")
        if size > MAX_EXPANDED:
            raise TooLarge(f"with its aliases written out, more than {MAX_EXPANDED} characters")


def _length(event: Any) -> int:
    """Return what a value adds to the size. Raises TooLarge if it is too long."""
    if len(event.value) > MAX_SCALAR:
        raise TooLarge(f"a value of more than {MAX_SCALAR} characters: {event.value[:20]}...")
    return 1 + len(event.value)


def _remember(sizes: dict[str, int], anchor: str | None, size: int) -> None:
    if anchor is not None:
        sizes[anchor] = size
