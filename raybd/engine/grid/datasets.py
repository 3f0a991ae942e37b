"""Data sets in Ray's object store: read once, shared by all stages of a node without a copy."""

import warnings
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from raybd.cells.data import load_data
from raybd.registry import Method
from raybd.types.data import Dataset, Split

Packed = dict[str, Any]
"""The parts of a data set as arrays, and its class names."""


@ray.remote(num_cpus=1, max_retries=2)
def load_dataset(method: Method, planned: str) -> Packed:
    """Read a data set, for all stages that use it; see `load_data`."""
    return pack(load_data(method, planned))


def pack(dataset: Dataset) -> Packed:
    """Return a data set as numpy arrays, which Ray shares between processes; it copies tensors."""
    parts = {"train": dataset.train, "clean": dataset.clean, "test": dataset.test}
    arrays = {name: (part.x_NCHW.numpy(), part.y_N.numpy()) for name, part in parts.items()}
    # Arrow's arrays are shared like numpy's.
    return {
        "class_names": dataset.class_names,
        "names": dict(dataset.names),
        "role_N": None if dataset.role_N is None else dataset.role_N.numpy(),
        **arrays,
    }


def unpack(packed: Packed) -> Dataset:
    """Return a data set whose tensors are views of shared arrays. Stages never write to them."""
    class_names = packed["class_names"]

    def part(name: str) -> Split:
        x_NCHW, y_N = packed[name]
        return Split(_view(x_NCHW), _view(y_N), class_names)

    return Dataset(
        class_names=class_names,
        train=part("train"),
        clean=part("clean"),
        test=part("test"),
        names=packed["names"],
        role_N=None if packed["role_N"] is None else _view(packed["role_N"]),
    )


def _view(array: NDArray[Any]) -> torch.Tensor:
    with warnings.catch_warnings():
        # Shared arrays are read-only, and torch has no read-only tensors.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))
