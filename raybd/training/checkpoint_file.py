"""A checkpoint as bytes: a SHA-256, then safetensors. Nothing in it is unpickled.

Nested states become a list of tensors and JSON, which is stored as one more tensor. JSON has no
tuples and no keys that are numbers, so that mappings and tuples are written as marked lists.
"""

import hashlib
import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

_DIGEST_BYTES = hashlib.sha256().digest_size
_STRUCTURE = "structure"
"""Name of the tensor that holds the JSON; the others are named by their numbers."""


class DamagedCheckpoint(ValueError):
    """The bytes are no checkpoint, or are damaged."""


def encode(state: Any) -> bytes:
    """Return a state of tensors, numbers, texts, None, lists, tuples and dicts as bytes.

    Raises TypeError for anything else.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_as_json(state, tensors)).encode()
    tensors[_STRUCTURE] = torch.frombuffer(bytearray(structure), dtype=torch.uint8)
    data = save(tensors)
    return hashlib.sha256(data).digest() + data


def decode(data: bytes) -> Any:
    """Return the state that `encode` was given. Raises DamagedCheckpoint."""
    content = data[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != data[:_DIGEST_BYTES]:
        raise DamagedCheckpoint("it is damaged, or of another version of raybd")
    try:
        tensors = load(content)
        return _from_json(json.loads(tensors[_STRUCTURE].numpy().tobytes()), tensors)
    except (SafetensorError, LookupError, ValueError, TypeError, RecursionError) as error:
        # Only a file with a right checksum that something else than `encode` wrote comes here.
        raise DamagedCheckpoint(f"it can't be read ({type(error).__name__})") from error


def _as_json(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON; its tensors are added to `tensors`."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # Clones, since safetensors refuses tensors that share memory.
        owned = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        tensors[name] = owned
        # The state of an optimizer is used with the layout that it is loaded with.
        last = value.dim() == 4 and not value.is_contiguous() and _is_channels_last(value)
        return ["channels_last" if last else "tensor", name]
    if isinstance(value, dict):
        pairs = [[_key(key), _as_json(item, tensors)] for key, item in value.items()]
        return ["dict", pairs]
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [_as_json(item, tensors) for item in value]]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint can't hold a {type(value).__name__}")


def _from_json(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "tensor":
        return tensors[content]
    if kind == "channels_last":
        return tensors[content].contiguous(memory_format=torch.channels_last)
    if kind == "dict":
        return {key: _from_json(item, tensors) for key, item in content}
    items = [_from_json(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def _key(key: Any) -> str | int:
    if isinstance(key, str | int) and not isinstance(key, bool):
        return key
    raise TypeError(f"a checkpoint can't hold a mapping with keys like {key!r}")


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)
