"""Any images in folders: train/CLASS/*.png and test/CLASS/*.png (or jpg, jpeg, bmp, webp).

The layout of `torchvision.datasets.ImageFolder`, once for each part.
Differs: the classes are the folders of the training part that hold images; only files directly
inside a class folder are taken.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from raybd.reading.classes import checked_names, source_of_classes
from raybd.reading.decode import Encoded, decode
from raybd.reading.images import Images, fingerprint
from raybd.reading.row_names import named_files
from raybd.types.data import Pool, Source
from raybd.types.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
LAYOUT_HINT = (
    "Lay the images out as train/CLASS/*.png and test/CLASS/*.png (or jpg, jpeg, bmp, webp) "
    "and set `path`."
)
FILES_IN_MEMORY = 1024
"""Files whose encoded bytes are in memory at a time."""
MAX_FILE_BYTES = 2**28
"""Size of an encoded image; one without compression has half of that."""


class ImageFolder(Images):
    """Your own images in one folder per class."""

    path: Path = Field(exclude=True)
    """Folder with train/ and test/. The names and contents of the files are part of a result's key,
    the place of the folder is not."""

    def source(self) -> Source:
        """List and hash the files, but decode no image.

        Raises UserError for names that can't be those of classes, and for what is no image file.
        """
        root = self.path.expanduser()
        folders = _folders(root / "train")
        names = checked_names([folder.name for folder in folders], str(root / "train"))
        files: dict[Pool, list[Path]] = {
            "train": _files(root / "train"),
            "test": _files(root / "test"),
        }
        labels = {pool: _labels(paths, names) for pool, paths in files.items()}
        # Names below the root, because the name of a folder is a label.
        content = fingerprint(
            {str(path.relative_to(root)): path for paths in files.values() for path in paths},
            MAX_FILE_BYTES,
        )
        read = partial(_read, files, self.size)
        row_names = partial(_row_names, root, files)
        return source_of_classes(
            names, labels["train"], labels["test"], read, content, str(root), row_names
        )


def _folders(part: Path) -> list[Path]:
    if not part.is_dir():
        raise UserError(f"{part}: no such folder", LAYOUT_HINT)
    # Sorted, because labels follow from the order, and file systems list folders in any order.
    # Hidden folders (.ipynb_checkpoints) are no classes.
    return sorted(
        folder for folder in part.iterdir() if folder.is_dir() and not folder.name.startswith(".")
    )


def _files(part: Path) -> list[Path]:
    files = [
        path
        for folder in _folders(part)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise UserError(f"{part}: no images in any folder below it", LAYOUT_HINT)
    return files


def _labels(files: Sequence[Path], names: Sequence[str]) -> Tensor:
    label = {name: index for index, name in enumerate(names)}
    for path in files:
        if path.parent.name not in label:
            raise UserError(
                f"{path.parent}: no folder of this name among the training images", LAYOUT_HINT
            )
    return torch.tensor([label[path.parent.name] for path in files])


def _read(
    files: Mapping[Pool, Sequence[Path]], size: int | None, pool: Pool, rows_M: Tensor
) -> Tensor:
    return decode(_chunks([files[pool][row] for row in rows_M.tolist()]), len(rows_M), size)


def _row_names(
    root: Path, files: Mapping[Pool, Sequence[Path]], pool: Pool, rows_M: Tensor
) -> pa.StringArray:
    return named_files(str(files[pool][row].relative_to(root)) for row in rows_M.tolist())


def _chunks(files: Sequence[Path]) -> Iterator[list[Encoded]]:

    # Bytes are read when a chunk is asked for, so that one chunk is in memory.
    for start in range(0, len(files), FILES_IN_MEMORY):
        chunk = files[start : start + FILES_IN_MEMORY]
        yield [
            Encoded(start + offset, str(path), path.read_bytes())
            for offset, path in enumerate(chunk)
        ]
