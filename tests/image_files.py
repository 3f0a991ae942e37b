"""Small image files for tests of data sets, and what a sound data set looks like."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from raybd.types.data import Dataset


def png(value: int, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(
    folder: Path,
    images: list[Any],
    labels: list[Any],
    *,
    image: str = "img",
    label: str = "label",
    names: Any = None,
) -> Path:
    """The same rows as training and as test part, in row groups of three."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = pa.array(
        [{"bytes": data, "path": None} for data in images],
        pa.struct({"bytes": pa.binary(), "path": "str"}),
    )
    table = pa.table({image: rows, label: labels})
    if names is not None:
        features = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    for part in ("train", "test"):
        pq.write_table(table, folder / f"{part}.parquet", row_group_size=3)
    return folder


def counts(y_N: Tensor) -> list[int]:
    return torch.bincount(y_N).tolist()


def same(one: Dataset, other: Dataset) -> bool:
    return all(
        torch.equal(getattr(one, part).x_NCHW, getattr(other, part).x_NCHW)
        and torch.equal(getattr(one, part).y_N, getattr(other, part).y_N)
        for part in ("train", "clean", "test")
    )


def assert_sound(dataset: Dataset, side: int) -> None:
    for part in (dataset.train, dataset.clean, dataset.test):
        assert part.x_NCHW.dtype == torch.uint8
        assert part.y_N.dtype == torch.int64
        assert part.x_NCHW.shape == (len(part), 3, side, side)
        assert part.x_NCHW.is_contiguous()
        assert 0 <= int(part.y_N.min()) <= int(part.y_N.max()) < dataset.num_classes
        assert part.x_NCHW.float().std() > 10
