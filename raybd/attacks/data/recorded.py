"""Recorded: what another program poisoned, its images and flags as they are; nothing is computed.

For records of BackdoorBench (Wu et al. 2022, arXiv 2206.12654, section 3), which `raybd
import-record` converts. Clean images are known by their content, in any split and order.
Differs: an image that the defender's clean part took is clean there, and in no training set.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Generator, Tensor

from raybd.ops.weights import local_file, located, sha256_of
from raybd.poisoning.overlay import overlay
from raybd.poisoning.recorded import Recorded as _Images
from raybd.poisoning.recorded import keys_of, read_recorded, rows_of
from raybd.types.config import Config
from raybd.types.data import LabelMap, Poisoned
from raybd.types.errors import Infeasible, UserError
from raybd.types.methods import Attack, AttackInput, RateBasis


class _Table(Config):
    """The label that the attacker wants for each class."""

    wanted_K: tuple[int, ...]

    def relabel(self, y_N: Tensor, num_classes: int) -> Tensor:
        """Return the wanted labels; a class that is not attacked keeps its own."""
        return self.wanted(y_N, num_classes)

    def wanted(self, y_N: Tensor, num_classes: int) -> Tensor:
        if len(self.wanted_K) != num_classes or max(self.wanted_K) >= num_classes:
            raise Infeasible(
                f"the record is about {len(self.wanted_K)} classes, and there are {num_classes}"
            )
        return torch.tensor(self.wanted_K)[y_N]

    def eligible(self, y_N: Tensor) -> Tensor:
        return torch.ones_like(y_N, dtype=torch.bool)

    def counted(self, y_N: Tensor) -> Tensor:
        return torch.tensor(self.wanted_K)[y_N] != y_N


class Recorded(Attack):
    """Put recorded images and labels over the clean training set."""

    rate_basis: ClassVar[RateBasis | None] = None
    path: str = Field(exclude=True)
    """The file poison.safetensors that `raybd import-record` wrote. Its content is part of a
    result's key, its place is not."""
    wanted: tuple[int, ...] = Field(min_length=2)
    """The label that the trigger asks for, for the images of each class; its own if the class is
    not attacked."""
    sha256: str | None = Field(None, validate_default=True, pattern="^[0-9a-f]{64}$")
    """Hash of the file; found by itself. Set it to accept this file and no other."""

    @model_validator(mode="before")
    @classmethod
    def _absolute(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and isinstance(values.get("path"), str):
            return {**values, "path": located(values["path"])}
        return values

    @field_validator("wanted")
    @classmethod
    def _are_classes(cls, wanted: tuple[int, ...]) -> tuple[int, ...]:
        if min(wanted) < 0:
            raise ValueError("labels are not negative")
        return wanted

    @field_validator("sha256")
    @classmethod
    def _of_the_file(cls, expected: str | None, info: ValidationInfo) -> str | None:
        # `path` is missing where its own check failed: that error is enough.
        if "path" not in info.data:
            return expected
        try:
            found = sha256_of(local_file(info.data["path"]))
        # pydantic lets only ValueErrors say which field is wrong.
        except UserError as error:
            raise ValueError(f"{error.what}. {error.hint}") from error
        if expected not in (None, found):
            raise ValueError(f"{info.data['path']} has the hash {found}")
        return found

    @property
    def label_map(self) -> LabelMap:
        """The table of the field `wanted`."""
        return _Table(wanted_K=self.wanted)

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return no rows: which they are depends on images, and a plan has labels alone."""
        self.label_map.wanted(y_N[:1], num_classes)
        return torch.empty(0, dtype=torch.int64)

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Put the recorded images over the clean ones that they were made of.

        Raises UserError if none of them is in the training set, or if their true labels differ.
        """
        images = self._images()
        train = given.train
        if images.train_x_MCHW.shape[1:] != train.x_NCHW.shape[1:]:
            raise _other_data(self.path, "images of another size")
        row_M = rows_of(images.train_key_M, keys_of(train.x_NCHW))
        there_M = row_M >= 0
        if len(row_M) and not there_M.any():
            raise _other_data(self.path, "none of its images")
        row_M, true_M = row_M[there_M], images.train_true_M[there_M]
        if not torch.equal(train.y_N[row_M], true_M):
            raise _other_data(self.path, "other labels for the same images")
        poisoned = overlay(
            self,
            given,
            row_M,
            state={"key_L": images.test_key_L, "x_LCHW": images.test_x_LCHW},
            x_MCHW=images.train_x_MCHW[there_M],
            y_M=images.train_y_M[there_M],
        )
        poisoned.role_M.copy_(images.train_role_M[there_M])
        return poisoned

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return the recorded versions of images. Raises UserError if there is none of some."""
        row_N = rows_of(keys_of(x_NCHW), state["key_L"])
        missing = int((row_N < 0).sum())
        if missing:
            raise UserError(
                f"the record has no version with the trigger of {missing} of {len(x_NCHW)} images",
                "Take the test images of the record's own data set, with the same `size`.",
                exit_code=1,
            )
        return state["x_LCHW"][row_N]

    def _images(self) -> _Images:
        path = local_file(self.path)
        found = sha256_of(path)
        if found != self.sha256:
            raise UserError(
                f"{self.path}: its hash is {found}, that of the plan {self.sha256}",
                "Put the same file at the same place on all nodes, and run the same command again.",
                exit_code=1,
            )
        return read_recorded(path, found)


def _other_data(path: str, what: str) -> UserError:
    return UserError(
        f"{path}: the training set has {what}",
        "Take the data set that the record was converted with, with the same `size`.",
        exit_code=1,
    )
