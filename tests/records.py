"""Folders as BackdoorBench records an attack, from the layout that it documents."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Given = Mapping[int, tuple[Tensor, int, int]]
"""By the place in the original data set: the changed image (3 x H x W), given and true label."""


def make_record(
    folder: Path,
    model: Mapping[str, Tensor],
    train: Given,
    test: Given,
    sizes: tuple[int, int],
    model_name: str = "resnet18",
    clean_data: str = "digits",
    made_at: str = "/home/somebody/record",
) -> Path:
    """Write a record, with the paths of the machine that it was made on."""
    folder.mkdir(parents=True)
    torch.save(
        {
            "model_name": model_name,
            "num_classes": 10,
            "model": dict(model),
            "data_path": "./data/digits",
            "img_size": (16, 16, 3),
            "clean_data": clean_data,
            "bd_train": _part(folder, "bd_train_dataset", train, sizes[0], made_at),
            "bd_test": _part(folder, "bd_test_dataset", test, sizes[1], made_at, held=sorted(test)),
        },
        folder / "attack_result.pt",
    )
    return folder


def _part(
    folder: Path, name: str, given: Given, size: int, made_at: str, held: list[int] | None = None
) -> dict[str, Any]:
    indicator_N = np.zeros(size)
    items: dict[Any, Any] = {}
    save_folder = f"{made_at}/{folder.name}/{name}"
    for place, (x_CHW, label, true) in given.items():
        path = folder / name / str(true) / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x_CHW.permute(1, 2, 0).numpy()).save(path)
        indicator_N[place] = 1
        # Places are numbers of numpy there.
        items[np.int64(place)] = {
            "path": f"{save_folder}/{true}/{place}.png",
            "other_info": [label, np.int64(true)],
        }
    return {
        "bd_data_container": {
            "save_folder_path": save_folder,
            "data_dict": items,
            "save_file_format": ".png",
        },
        "getitem_all": True,
        "getitem_all_switch": False,
        "original_index_array": np.arange(size) if held is None else np.array(held),
        "poison_indicator": indicator_N,
        "save_folder_path": save_folder,
    }
