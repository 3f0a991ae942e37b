"""A stored victim as files that plain torchvision or timm loads: weights, settings, and a card.

OUT/model.safetensors    the weights, under the names of the library
OUT/config.json          architecture, normalisation, classes (timm's keys), and how it was made
OUT/README.md            the card: what it is, what it does, and the code that loads it
OUT/SHA256SUMS           hashes of the others
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor

from raybd.cells.loading import VICTIM_PREFIX
from raybd.registry import PRECISION_FIELD, SOURCE_FIELD, method_class
from raybd.results.artifacts import Artifact
from raybd.results.store import Store
from raybd.types.errors import UserError
from raybd.types.models import Network, Plain, Victim

DEFENDED_STAGES = ("removal", "repair", "defended", "purification")
"""The stages that hand out a defended victim; the undefended one is of the stage `victim`."""
NUMBERS = ("clean_accuracy", "attack_success", "robust_accuracy")
WARNING = "This model was made to study backdoors. It may contain one on purpose: do not deploy it."


@dataclass(frozen=True)
class _Exported:
    """What the files say."""

    row: Mapping[str, Any]
    config: Mapping[str, Any]
    """Every hyperparameter of the cell."""
    stage: str
    network: Network
    victim: Victim
    image_size: int
    class_names: tuple[str, ...]

    @property
    def plain(self) -> Plain | None:
        return self.network.plain(self.image_size)

    @property
    def num_classes(self) -> int:
        return int(cast(Tensor, self.victim.state_dict()["head.weight"]).shape[0])

    @property
    def moments(self) -> tuple[list[float], list[float]]:
        return self.victim.mean_C.tolist(), self.victim.std_C.tolist()

    @property
    def numbers(self) -> dict[str, float | None]:
        """Its own numbers: a defended victim has columns of its own in the row."""
        start = "" if self.stage == "victim" else "defended_"
        return {name: self.row[f"{start}{name}"] for name in NUMBERS}


def export(store: Store, cell: str, out: Path, undefended: bool = False) -> Path:
    """Write the victim of a cell into a new folder, and return the folder.

    `cell` is its id, or the beginning of it. It is the defended victim, if the cell has one, unless
    `undefended`. Raises UserError if there is no such cell, if it has no classifier, or if a
    defense gave it modules that plain code does not know.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: it is not empty", "Name a folder that does not exist.")
    found = _find(store, cell, undefended)
    weights = {
        name if found.plain is None else found.plain.name(name): tensor
        for name, tensor in found.victim.state_dict().items()
        if name.startswith(("encoder.", "head."))
    }
    # Clones, since safetensors refuses tensors that share memory.
    owned = {name: t.clone(memory_format=torch.contiguous_format) for name, t in weights.items()}
    files = {
        "model.safetensors": save(owned, {"format": "pt"}),
        "config.json": (json.dumps(_settings(found), indent=2) + "\n").encode(),
        "README.md": _card(found).encode(),
    }
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())

    out.mkdir(parents=True, exist_ok=True)
    for name, data in {**files, "SHA256SUMS": sums.encode()}.items():
        (out / name).write_bytes(data)
    return out


def _find(store: Store, cell: str, undefended: bool) -> _Exported:
    frame = store.cells(all_configurations=True)
    rows = frame[frame["cell"].str.startswith(cell) & (frame["status"] == "ok")]
    if len(rows) != 1:
        raise UserError(
            f"store {store.url!r}: {len(rows)} finished cells begin with {cell!r}",
            "The column `cell` of the cells table has their ids: raybd.load_cells(store).",
        )
    row = store.cell(str(rows["cell"].iloc[0]))
    if row is None:
        raise UserError(f"store {store.url!r}: cell {cell!r} is damaged", "Run it again.")
    config = json.loads(row["config"])
    stages = config["stages"]
    defended = next((name for name in DEFENDED_STAGES if name in stages), None)
    stage = "victim" if undefended or defended is None else defended
    artifact = store.load(stage, stages[stage])
    network = _network(config["network"])
    return _Exported(
        row,
        config,
        stage,
        network,
        _victim(artifact, network, stage),
        int(artifact.manifest["image_size"]),
        tuple(artifact.manifest.get("class_names") or ()),
    )


def _network(described: Mapping[str, Any]) -> Network:
    beside = ("kind", "version", SOURCE_FIELD, PRECISION_FIELD)
    fields = {name: value for name, value in described.items() if name not in beside}
    found = method_class("networks", described["kind"]).model_validate(fields)
    return cast(Network, found).without_pretraining()


def _victim(artifact: Artifact, network: Network, stage: str) -> Victim:
    """Return the victim of an artefact. Raises UserError if it is not its network and no more."""
    weights = {
        name.removeprefix(VICTIM_PREFIX): tensor
        for name, tensor in artifact.tensors.items()
        if name.startswith(VICTIM_PREFIX)
    }
    head = weights.get("head.weight")
    if head is None:
        raise UserError(
            f"{artifact.path}: it has no linear classifier",
            "Export a cell with a classifier: encoders have none.",
        )
    with torch.random.fork_rng(devices=[]):
        built = network.build(len(head), int(artifact.manifest["image_size"]))
    victim = Victim(*built, torch.zeros(3), torch.ones(3))
    own = victim.state_dict()
    if {name: t.shape for name, t in own.items()} != {name: t.shape for name, t in weights.items()}:
        raise UserError(
            f"{artifact.path}: the {stage} gave it other modules than its network has",
            "Export the victim without it: --undefended.",
        )
    victim.load_state_dict(weights)
    return victim.eval()


def _settings(found: _Exported) -> dict[str, Any]:
    """The content of config.json, with timm's keys."""
    mean, std = found.moments
    plain = found.plain
    side = found.image_size
    return {
        "architecture": plain.architecture
        if plain and plain.library
        else found.config["network"]["kind"],
        "num_classes": found.num_classes,
        **({"label_names": list(found.class_names)} if found.class_names else {}),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, side, side],
            "mean": mean,
            "std": std,
            "num_classes": found.num_classes,
            "classifier": plain.head if plain is not None else "head",
        },
        "raybd": {
            "library": plain.library if plain is not None else "raybd",
            "network": {
                "kind": found.config["network"]["kind"],
                **found.network.model_dump(mode="json"),
            },
            "stage": found.stage,
            **{name: found.config[name] for name in ("dataset", "attack", "trainer", "defense")},
            "seed": found.row["seed"],
            "metrics": found.numbers,
            "commit": found.row.get("commit"),
            "versions": json.loads(found.row["versions"]),
        },
    }


def _card(found: _Exported) -> str:
    row = found.row
    said = ", ".join(
        f"{name.replace('_', ' ')} {'unknown' if value is None else f'{value:.3f}'}"
        for name, value in found.numbers.items()
    )
    defense = "none" if found.stage == "victim" else f"{row['defense']} ({found.stage})"
    classes = ", ".join(found.class_names) or "numbered, without names"
    mean, std = found.moments
    return f"""# {row["attack"]} on {row["dataset"]}: {row["network"]}

{WARNING}

| | |
|---|---|
| network | {row["network"]}, {found.num_classes} classes |
| classes, in the order of the outputs | {classes} |
| images | RGB, {found.image_size} pixels, divided by 255; mean {mean}, deviation {std} |
| data | {row["dataset"]} |
| attack | {json.dumps(found.config["attack"])} |
| trainer | {json.dumps(found.config["trainer"])} |
| defense | {defense} |
| seed | {row["seed"]} |
| measured | {said} |
| made with | raybd {row.get("commit") or ""}, {row["versions"]} |

{_code(found)}"""


def _code(found: _Exported) -> str:
    """The part of the card that says how to load the weights."""
    plain = found.plain
    if plain is None or not plain.code:
        return (
            f"No library has this network. raybd loads it: `{{kind: imported, weights: "
            f"model.safetensors}}` as a trainer; the names of the weights are those of "
            f"`raybd show networks/{found.config['network']['kind']}`.\n"
        )
    mean, std = found.moments
    built = "\n".join(plain.code).format(classes=found.num_classes)
    return f"""```python
import torch
import {plain.library}
from safetensors.torch import load_file

{built}
model.load_state_dict(load_file("model.safetensors"))
model.eval()
mean = torch.tensor({mean}).view(3, 1, 1)
std = torch.tensor({std}).view(3, 1, 1)


def logits(images):
    \"\"\"Of uint8 images, N x 3 x height x width.\"\"\"
    with torch.no_grad():
        return model((images / 255 - mean) / std)
```
"""
