"""Artefacts: the tensors and facts that a stage computed, checked by their sha256.

The manifest is written last, so an artefact without a manifest does not exist.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raybd.results.damaged import check_place
from raybd.results.failures import Vanished, store_errors
from raybd.results.files import FileStorage
from raybd.results.manifests import manifest_text, sound_manifest
from raybd.results.parquet import Unsound
from raybd.results.places import Misplaced
from raybd.results.schemas import SCHEMA_VERSION
from raybd.results.threads import map_in_threads
from raybd.types.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import Tensor

MAX_SINGLE_LOOKUPS = 100
"""For more artefacts than this, listing the folders first is faster than looking for each."""
MAX_HEADER_BYTES = 2**22
"""Size of the header of the tensors, about 100 bytes for each."""
_HEADER_LENGTH_BYTES = 8
MAX_MANIFEST_BYTES = 2**24
"""Size of a manifest; its history has a few lines for each epoch."""

MISMATCH = "tensors.safetensors is missing or does not match its manifest"

State = Literal["ok", "missing", "damaged"]


class Damaged(Exception):
    """A file of the store failed its check and was set aside."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{one_line(path)} failed its check and was set aside; "
            "run the same command again to compute it again"
        )
        self.path = path

    def __reduce__(self) -> tuple[type["Damaged"], tuple[str]]:
        # It is built again from its path when a worker sends it, and not from its text.
        return type(self), (self.path,)


class Unusable(UserError):
    """A file may be sound, but not for this raybd on this machine. It stays where it is."""


class NewerSchema(Unusable):
    """A newer version of raybd wrote a file, which this one can't read."""

    def __init__(self, path: str, schema: int) -> None:
        super().__init__(f"{path}: written by a newer raybd (schema {schema})", "Upgrade raybd.")
        self.path, self.schema = path, schema

    def __reduce__(self) -> tuple[type["NewerSchema"], tuple[str, int]]:  # type: ignore[override]
        return type(self), (self.path, self.schema)


class TooLarge(Unusable):
    """The tensors of an artefact do not fit into the memory of this machine."""

    def __init__(self, path: str, size: int) -> None:
        super().__init__(
            f"{path}: states {size} bytes, more than this machine can load",
            "Use a machine with more memory, or remove it.",
        )
        self.path, self.size = path, size

    def __reduce__(self) -> tuple[type["TooLarge"], tuple[str, int]]:  # type: ignore[override]
        return type(self), (self.path, self.size)


class Foreign(Unusable):
    """An artefact matches its manifest, but is not what its stage writes."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"{path}: {reason}: no raybd wrote it",
            "Remove it, and run the same command again.",
        )
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type["Foreign"], tuple[str, str]]:  # type: ignore[override]
        return type(self), (self.path, self.reason)


class _Tensors(dict[str, "Tensor"]):
    """Tensors by name. To ask for one that is missing raises Foreign."""

    def __init__(self, tensors: Mapping[str, "Tensor"], path: str) -> None:
        super().__init__(tensors)
        self.path = path

    def __missing__(self, name: str) -> "Tensor":
        raise Foreign(self.path, f"it has no tensor {name!r}")


@dataclass(frozen=True)
class Artifact:
    """What a stage computed."""

    tensors: Mapping[str, "Tensor"]
    """By name. To ask for one that the artefact lacks raises Foreign."""
    manifest: Mapping[str, Any]
    path: str = ""
    """Where it lies, for errors."""

    def refuse(self, reason: str) -> Foreign:
        """Return the error for an artefact that is not what its stage writes."""
        return Foreign(self.path, reason)


@dataclass(frozen=True)
class ArtifactStorage(FileStorage):
    """The artefacts of a store: `artifacts/<stage>/<key>/`."""

    def save(
        self, stage: str, key: str, tensors: Mapping[str, "Tensor"], facts: Mapping[str, Any]
    ) -> None:
        """Write what a stage computed, under its key."""
        # Here, not above: whoever only reads tables does without torch.
        import torch
        from safetensors.torch import save

        # Clones, since safetensors refuses tensors that share memory.
        owned = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        data = save(owned)
        manifest = {
            **facts,
            "schema": SCHEMA_VERSION,
            "stage": stage,
            "key": key,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }

        folder = _folder(stage, key)
        self.write(f"{folder}/tensors.safetensors", data)
        self.write(f"{folder}/manifest.json", manifest_text(manifest))

    def manifest(self, stage: str, key: str) -> dict[str, Any]:
        """Return the facts of an artefact.

        Raises Vanished, a FileNotFoundError, if there is none, Damaged if the manifest fails its
        check (it is set aside), and Unusable if a newer version of raybd wrote it, or if its
        tensors do not fit into the memory of this machine.
        """
        path = f"{_folder(stage, key)}/manifest.json"
        try:
            manifest = sound_manifest(self.read(path, MAX_MANIFEST_BYTES), stage, key)
        except Misplaced:
            raise
        except FileNotFoundError as error:
            raise Vanished(path) from error
        except Unsound as error:
            self.quarantine(_folder(stage, key), f"manifest.json {error}")
            raise Damaged(path) from error
        if manifest["schema"] > SCHEMA_VERSION:
            raise NewerSchema(f"{self.url}/{path}", manifest["schema"])
        if manifest["bytes"] > max_tensor_bytes():
            raise TooLarge(f"{self.url}/{_folder(stage, key)}", manifest["bytes"])
        return manifest

    def load(self, stage: str, key: str) -> Artifact:
        """Return an artefact, checked against its manifest.

        Raises Vanished, a FileNotFoundError, if there is none, and Damaged if it fails the check
        (it is set aside).
        """
        manifest = self.manifest(stage, key)
        folder = _folder(stage, key)
        data = None
        # Before it is read: a file of another size may be larger than the memory.
        if not self.local or self._size(f"{folder}/tensors.safetensors") == manifest["bytes"]:
            try:
                data = self.read_if_there(f"{folder}/tensors.safetensors", manifest["bytes"])
            except Unsound:
                data = None
        if data is None or hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            self.set_aside(stage, key, MISMATCH)
            raise Damaged(folder)
        try:
            tensors = _loaded(data)
        except Unsound as error:
            self.set_aside(stage, key, f"tensors.safetensors {error}")
            raise Damaged(folder) from error
        path = f"{self.url}/{folder}"
        return Artifact(_Tensors(tensors, path), manifest, path)

    def set_aside(self, stage: str, key: str, reason: str) -> bool:
        """Move an artefact below `damaged/`, with a warning; return whether it was moved."""
        return self.quarantine(_folder(stage, key), reason)

    def state(self, stage: str, key: str) -> State:
        """Return whether other stages can read an artefact. A damaged one is set aside."""
        folder = _folder(stage, key)
        path = f"{folder}/tensors.safetensors"
        try:
            manifest = self.manifest(stage, key)
            if self.local:
                sound = (
                    self._size(path) == manifest["bytes"] and self._hash(path) == manifest["sha256"]
                )
            else:
                # A remote file would have to be downloaded to be hashed; `load` does that.
                with store_errors(self.url, path, "read"):
                    sound = self.filesystem.size(self.at(path)) == manifest["bytes"]
        except Damaged:
            return "damaged"
        except Misplaced:
            sound = False
        except FileNotFoundError:
            # Which of the two files is missing? Tensors without a manifest are not an artefact yet.
            if not self.exists(f"{folder}/manifest.json"):
                return "missing"
            sound = False

        if not sound and self.exists(folder):
            self.set_aside(stage, key, MISMATCH)
        return "ok" if sound else "damaged"

    def states(self, artifacts: Sequence[tuple[str, str]]) -> dict[tuple[str, str], State]:
        """Return the states of many artefacts, given as (stage, key)."""
        present = set(artifacts)
        # One listing for each kind of stage tells which of them need no look at all.
        if len(artifacts) > MAX_SINGLE_LOOKUPS:
            stages = {stage for stage, _ in artifacts}
            present = {(stage, key) for stage in stages for key in self.keys(stage)}

        states: dict[tuple[str, str], State] = dict.fromkeys(artifacts, "missing")
        looked_up = [artifact for artifact in artifacts if artifact in present]
        return states | map_in_threads(lambda artifact: self.state(*artifact), looked_up)

    def keys(self, stage: str) -> list[str]:
        """Return the keys of the artefacts of a stage, complete or not, sorted."""
        return sorted(self.fingerprints(f"artifacts/{stage}"))

    def _size(self, path: str) -> int:
        """Return the size of a local file; -1 if there is none."""
        check_place(self, path, "file")
        try:
            return Path(self.at(path)).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return -1

    def _hash(self, path: str) -> str:
        """Return the SHA-256 of a local file."""
        with store_errors(self.url, path, "read"):
            check_place(self, path, "file")
            with Path(self.at(path)).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()


def max_tensor_bytes() -> int:
    """Return how large a file of tensors can be on this machine.

    In memory they are twice: as the bytes of the file, and as tensors.
    """
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _folder(stage: str, key: str) -> str:
    return f"artifacts/{stage}/{key}"


def _loaded(data: bytes) -> dict[str, "Tensor"]:
    """Return the tensors of a safetensors file. Raises Unsound if it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    header_bytes = int.from_bytes(data[:_HEADER_LENGTH_BYTES], "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise Unsound(f"states a header of {header_bytes} bytes")
    try:
        return load(data)
    # Besides its own, kinds of numbers that torch lacks, and shapes that it can't have.
    except (SafetensorError, LookupError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).split("\n")[0][:200]
        raise Unsound(f"is no safetensors file ({reason})") from error
