"""`raybd import-record`: a record of BackdoorBench as an experiment, its model and its poison."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raybd.cli.output import say
from raybd.types.errors import UserError

if TYPE_CHECKING:
    from raybd.reading.backdoorbench import Record
    from raybd.types.data import Source

NETWORKS: dict[str, dict[str, Any]] = {
    "preactresnet18": {"kind": "preact_resnet18", "final_norm": False}
}
"""The networks that are BackdoorBench's own; others are found by names and shapes."""
NORMALISATIONS: dict[str, Any] = {
    "cifar10": "cifar10",
    "cifar100": {"mean": [0.5071, 0.4865, 0.4409], "std": [0.2673, 0.2564, 0.2762]},
    "gtsrb": "none",
    "tiny": {"mean": [0.4802, 0.4481, 0.3975], "std": [0.2302, 0.2265, 0.2262]},
}
"""How BackdoorBench normalises the images of each data set."""
DETECTORS = ("spectral", "activation_clustering", "strip")
"""What the experiment runs at first."""


def import_record(
    record: Annotated[Path, typer.Argument(help="Folder with attack_result.pt.")],
    data: Annotated[
        str, typer.Option("--data", help="Kind of the clean data set, like cifar10 or parquet.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; it must be empty.")],
    data_path: Annotated[
        Path | None, typer.Option("--data-path", help="Where the clean data set lies.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Side that its images are resized to.")
    ] = None,
) -> None:
    """Convert a record of BackdoorBench: weights, poison and an experiment that `run` takes."""
    from raybd.plan import entries
    from raybd.reading.backdoorbench import check_order, open_record

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: it is not empty", "Name a folder that does not exist.")
    entry: dict[str, Any] = {"kind": data}
    if data_path is not None:
        entry["path"] = str(data_path.expanduser().absolute())
    if size is not None:
        entry["size"] = size
    source = entries.method("datasets", entry, "--data").config.source()  # type: ignore[attr-defined]
    found = open_record(record)
    check_order(found, source, data)
    typer.echo(_write(record, found, entry, source, out))


def _write(
    folder: Path, record: "Record", data: dict[str, Any], source: "Source", out: Path
) -> Path:
    """Write the files, and return the path of the experiment."""
    import yaml
    from safetensors.torch import save_file

    from raybd.poisoning.recorded import Recorded, keys_of
    from raybd.reading.backdoorbench import roles_of, wanted_of
    from raybd.types.data import POISON

    train, test = record.parts["train"], record.parts["test"]
    wanted = wanted_of(test, record.num_classes)
    clean = {pool: source.read(pool, part.place_M) for pool, part in record.parts.items()}
    role_M = roles_of(train)
    images = Recorded(
        train_key_M=keys_of(clean["train"]),
        train_true_M=train.true_M,
        train_x_MCHW=train.images(),
        train_y_M=train.given_M,
        train_role_M=role_M,
        test_key_L=keys_of(clean["test"]),
        test_x_LCHW=test.images(),
    )

    out.mkdir(parents=True, exist_ok=True)
    (out / "poison.safetensors").write_bytes(images.as_bytes())
    weights = {name: tensor.clone() for name, tensor in record.weights.items()}
    save_file(weights, out / "model.safetensors")
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", folder.resolve().name).strip(".-_") or "record"
    experiment = {
        "name": f"record-{name}",
        "datasets": [data],
        "attacks": [
            {
                "kind": "recorded",
                "name": f"record-{name}",
                "path": str((out / "poison.safetensors").absolute()),
                "wanted": list(wanted),
            }
        ],
        "trainers": [_trainer(record, out)],
        "detectors": [{"kind": kind} for kind in DETECTORS],
    }
    text = yaml.safe_dump(experiment, sort_keys=False, default_flow_style=None, width=100)
    path = out / "experiment.yaml"
    path.write_text(f"# Converted from {json.dumps(folder.name)} of BackdoorBench.\n{text}")
    n_poison = int((role_M == POISON).sum())
    say(
        f"{n_poison} poisoned and {len(role_M) - n_poison} other changed training images, "
        f"{len(test.files)} test images with the trigger. To evaluate it:",
        f"  raybd run {path}",
    )
    return path


def _trainer(record: "Record", out: Path) -> dict[str, Any]:
    trainer: dict[str, Any] = {
        "kind": "imported",
        "weights": str((out / "model.safetensors").absolute()),
    }
    # Without one, the run says what each of the common ones would give.
    if record.dataset in NORMALISATIONS:
        trainer["normalisation"] = NORMALISATIONS[record.dataset]
    if record.model_name in NETWORKS:
        trainer["network"] = NETWORKS[record.model_name]
    return trainer
