"""Artefacts: the tensors and facts that a stage computed, checked by their sha256.

The manifest is written last, so an artefact without a manifest does not exist.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raybd.results.failures import Vanished, store_errors
from raybd.results.files import FileStorage
from raybd.results.manifests import manifest_text, sound_manifest
from raybd.results.parquet import Unsound
from raybd.results.places import Misplaced
from raybd.results.schemas import SCHEMA_VERSION
from raybd.results.threads import map_in_threads
from raybd.types.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

MAX_SINGLE_LOOKUPS = 100
"""For more artefacts than this, listing the folders first is faster than looking for each."""

State = Literal["ok", "missing", "damaged"]


class Damaged(Exception):
    """A file of the store failed its check and was set aside."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} failed its check and was set aside; "
            "run the same command again to compute it again"
        )


class NewerSchema(UserError):
    """A newer version of raybd wrote a file, which this one can't read. It stays where it is."""

    def __init__(self, path: str, schema: int) -> None:
        super().__init__(f"{path}: written by a newer raybd (schema {schema})", "Upgrade raybd.")
        self.path, self.schema = path, schema

    def __reduce__(self) -> tuple[type["NewerSchema"], tuple[str, int]]:  # type: ignore[override]
        return type(self), (self.path, self.schema)


@dataclass(frozen=True)
class Artifact:
    """What a stage computed."""

    tensors: Mapping[str, "Tensor"]
    manifest: Mapping[str, Any]


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
        check (it is set aside), and NewerSchema if a newer version of raybd wrote it.
        """
        path = f"{_folder(stage, key)}/manifest.json"
        try:
            manifest = sound_manifest(self.read(path), stage, key)
        except Misplaced:
            raise
        except FileNotFoundError as error:
            raise Vanished(path) from error
        except Unsound as error:
            self.quarantine(_folder(stage, key), f"manifest.json {error}")
            raise Damaged(path) from error
        if manifest["schema"] > SCHEMA_VERSION:
            raise NewerSchema(f"{self.url}/{path}", manifest["schema"])
        return manifest

    def load(self, stage: str, key: str) -> Artifact:
        """Return an artefact, checked against its manifest.

        Raises Vanished, a FileNotFoundError, if there is none, and Damaged if it fails the check
        (it is set aside).
        """
        from safetensors.torch import load

        manifest = self.manifest(stage, key)
        folder = _folder(stage, key)
        data = self.read_if_there(f"{folder}/tensors.safetensors")
        if data is None or hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            self.quarantine(folder, "tensors.safetensors is missing or does not match its manifest")
            raise Damaged(folder)
        return Artifact(load(data), manifest)

    def state(self, stage: str, key: str) -> State:
        """Return whether other stages can read an artefact. A damaged one is set aside."""
        folder = _folder(stage, key)
        path = f"{folder}/tensors.safetensors"
        try:
            manifest = self.manifest(stage, key)
            if self.local:
                sound = self._hash(path) == manifest["sha256"]
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
            self.quarantine(folder, "tensors.safetensors is missing or does not match its manifest")
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

    def _hash(self, path: str) -> str:
        """Return the SHA-256 of a local file."""
        with store_errors(self.url, path, "read"):
            self.check_place(path, "file")
            with Path(self.at(path)).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()


def _folder(stage: str, key: str) -> str:
    return f"artifacts/{stage}/{key}"
