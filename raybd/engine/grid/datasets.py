"""Datasets in Ray's object store: one uint8 array per part and node, read by every stage without a copy."""

import warnings
from typing import Any, cast

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from raybd.registry import Method
from raybd.types.data import Dataset, Split
from raybd.types.methods import DatasetMethod

Packed = dict[str, Any]


@ray.remote(num_cpus=1, max_retries=2)
def load_dataset(method: Method) -> Packed:
    """Read a data set once, for all stages."""
    return pack(cast(DatasetMethod, method.config).load())


def pack(dataset: Dataset) -> Packed:
    """As numpy arrays: Ray shares those between processes, and copies tensors."""
    parts = {name: getattr(dataset, name) for name in ("train", "clean", "test")}
    return {
        "class_names": dataset.class_names,
        **{name: (p.x_NCHW.numpy(), p.y_N.numpy()) for name, p in parts.items()},
    }


def unpack(packed: Packed) -> Dataset:
    """A view of the shared arrays; stages never write to a data set."""
    names = packed["class_names"]
    parts = {
        name: Split(_view(packed[name][0]), _view(packed[name][1]), names)
        for name in ("train", "clean", "test")
    }
    return Dataset(class_names=names, **parts)


def _view(array: NDArray[Any]) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))
