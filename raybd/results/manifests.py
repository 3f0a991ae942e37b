"""The manifest of an artefact: JSON with a checksum over all its other values.

Manifests of schema 1 have no checksum. What they say is checked for its types and ranges.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from raybd.results.parquet import Unsound
from raybd.results.schemas import FIRST_SCHEMA_WITH_CHECKSUM
from raybd.results.validation import CELL_RULES, ROUNDING

CHECKSUM = "checksum"
_NUMBERS = ("seconds", "gpu_seconds", "peak_memory_bytes")
"""What a stage has cost; each manifest of schema 1 has it."""


def manifest_text(manifest: Mapping[str, Any]) -> bytes:
    """Return a manifest as JSON, with its checksum."""
    # Through JSON and back: there the keys of a mapping are strings.
    written = json.loads(json.dumps(manifest))
    sealed = {**written, CHECKSUM: _checksum(written)}
    return json.dumps(sealed, indent=1, sort_keys=True).encode()


def sound_manifest(data: bytes, stage: str, key: str) -> dict[str, Any]:
    """Return the manifest of an artefact. Raises Unsound if it is damaged, or of another one."""
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Unsound(f"is not JSON ({error})") from error
    if not isinstance(manifest, dict):
        raise Unsound("is no JSON object")

    stated = manifest.pop(CHECKSUM, None)
    if stated is not None and stated != _checksum(manifest):
        raise Unsound("does not match its checksum")
    if type(manifest.get("schema")) is not int:
        raise Unsound("does not say its schema")
    if stated is None and manifest["schema"] >= FIRST_SCHEMA_WITH_CHECKSUM:
        raise Unsound("has lost its checksum")

    if (manifest.get("stage"), manifest.get("key")) != (stage, key):
        raise Unsound("is the manifest of another artefact")
    if type(manifest.get("bytes")) is not int or not isinstance(manifest.get("sha256"), str):
        raise Unsound("does not say size and sha256 of the tensors")
    if stated is None:
        _check_values(manifest)
    return manifest


def _checksum(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _check_values(manifest: Mapping[str, Any]) -> None:
    """Raise Unsound if a manifest without a checksum says what it can't say."""
    for name in _NUMBERS:
        if not _is_number(manifest.get(name)) or manifest[name] < 0:
            raise Unsound(f"{name} can't be {manifest.get(name)!r}")
    if not isinstance(manifest.get("method"), dict) or "kind" not in manifest["method"]:
        raise Unsound("does not say its method")
    if not isinstance(manifest.get("data"), str):
        raise Unsound("does not say its data set")
    if not isinstance(manifest.get("network"), dict | None):
        raise Unsound(f"network can't be {manifest['network']!r}")

    for name in CELL_RULES.shares:
        value = manifest.get(name)
        if value is not None and not (_is_number(value) and -ROUNDING <= value <= 1 + ROUNDING):
            raise Unsound(f"{name} can't be {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
