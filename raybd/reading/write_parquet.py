"""Write images in the layout that `parquet.py` reads."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Pairs = Sequence[tuple[Image.Image | bytes, int]]
"""Like a data set of torchvision: an image (or its encoded bytes) and its label at each index."""

ROWS_PER_GROUP = 1000
"""Images in a row group: a reader skips the groups of which it wants no image."""


def write_parquet(train: Pairs, test: Pairs, names: Sequence[str] | None, folder: Path) -> None:
    """Write train.parquet and test.parquet into a new folder.

    Encoded bytes are kept as they are, other images are stored without loss.
    """
    folder.mkdir(parents=True)
    schema = _schema(names)
    for part, pairs in (("train", train), ("test", test)):
        with pq.ParquetWriter(folder / f"{part}.parquet", schema) as writer:
            for start in range(0, len(pairs), ROWS_PER_GROUP):
                stop = min(start + ROWS_PER_GROUP, len(pairs))
                # One group at a time: decoded, a whole data set may not fit into memory.
                chosen = [pairs[row] for row in range(start, stop)]
                rows = [
                    {"img": {"bytes": _encoded(image)}, "label": int(label)}
                    for image, label in chosen
                ]
                writer.write_table(pa.Table.from_pylist(rows, schema))


def _schema(names: Sequence[str] | None) -> pa.Schema:
    # Where the `datasets` library keeps the names of classes.
    features = {"label": {"names": list(names), "_type": "ClassLabel"}} if names else {}
    return pa.schema(
        [
            ("img", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.int64()),
        ],
        {"huggingface": json.dumps({"info": {"features": features}})},
    )


def _encoded(image: Image.Image | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    buffer = io.BytesIO()
    # Higher levels take much longer and make photographs hardly smaller.
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
