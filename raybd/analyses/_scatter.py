"""What t-SNE and UMAP share: which images are shown, their features, and the table.

Differs from most published pictures: rows are drawn in proportion, with a seed, and stored with
their indices; the table says how far the two dimensions can be trusted.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.analyses._needs import need_library, unit_layer
from raybd.analyses._sample import in_proportion
from raybd.distributed import group
from raybd.ops.global_streams import seed_from, seeded
from raybd.training.inference import infer
from raybd.training.layers import activations, by_position
from raybd.types.data import CLEAN, POISON, SAMPLE_ROLES, Split
from raybd.types.errors import UserError
from raybd.types.methods import Analysis, AnalysisInput
from raybd.types.models import Victim

if TYPE_CHECKING:
    import pyarrow as pa

FEWEST = 5
"""Images below which neighbours mean nothing."""
NEIGHBOURS = 5
"""Neighbours of each image that trustworthiness looks at: scikit-learn's default."""


@dataclass(frozen=True)
class _Shown:
    """The images of a picture."""

    index: Tensor
    """Row in the training or test set, or, of a stamped test image, in the pairs."""
    x_NCHW: Tensor
    role_N: Tensor
    stamped_N: Tensor
    true_N: Tensor
    given_N: Tensor
    wanted_N: Tensor
    """Labels; -1: none, or not known."""


class Scatter(Analysis):
    """Features of a sample of images in two dimensions."""

    looks_at_twin: ClassVar[bool] = True
    library: ClassVar[str] = "sklearn"
    """The package that places the images."""
    pool: Literal["train", "test"] = "train"
    """Which images: the training set with its poison, or the test images and, beside them, those
    that count with the trigger."""
    layer: str = "features"
    """Features: the input of the head; or the dotted name of a module of the encoder."""
    reduce: Literal["mean", "max", "l2"] = "mean"
    """How a map is reduced over its positions."""
    images: int = Field(2000, ge=FEWEST, le=20000)
    """Largest number of images, drawn in proportion to the classes with and without a trigger."""

    @abstractmethod
    def place(self, z_ND: Tensor, seed: int) -> Tensor:
        """Return coordinates N x 2 of features."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return a row for each image: what it is, its coordinates u and v, and trustworthiness.

        `index` is its row in the training or test set; that of a stamped test image is its row
        among those that count. `true` is null where poison may have changed the label, `given`
        where no training set carries the image, and `wanted` without the trigger at test time.
        Trustworthiness (in 0..1, the same in each row) says how far neighbours in the picture are
        neighbours of the features. Raises UserError for fewer than five images, or
        without the library.
        """
        import pyarrow as pa

        tool = type(self).__module__.rpartition(".")[2]
        # On every worker: if one alone failed, the others would wait for it.
        need_library(tool, self.library)
        shown = self._shown(given, rng)
        if len(shown.index) < FEWEST:
            raise UserError(
                f"{tool}: {len(shown.index)} images",
                f"It needs at least {FEWEST}.",
                exit_code=1,
            )
        z_ND = self._features(tool, given.victim, shown.x_NCHW)
        seed = seed_from(rng)

        # The first worker places them for all: a second run might differ in the last bits.
        uv_N2, trust = group.broadcast(lambda: self._placed(z_ND, seed))
        return pa.table(
            {
                "index": pa.array(shown.index.tolist(), pa.int32()),
                "role": [SAMPLE_ROLES[role] for role in shown.role_N.tolist()],
                "true": _labels(shown.true_N),
                "given": _labels(shown.given_N),
                "wanted": _labels(shown.wanted_N),
                "stamped": pa.array(shown.stamped_N.tolist(), pa.bool_()),
                "u": pa.array(uv_N2[:, 0].tolist(), pa.float32()),
                "v": pa.array(uv_N2[:, 1].tolist(), pa.float32()),
                "trustworthiness": pa.array([trust] * len(uv_N2), pa.float32()),
            }
        )

    def _placed(self, z_ND: Tensor, seed: int) -> tuple[Tensor, float]:
        from sklearn.manifold import trustworthiness

        with seeded(seed):
            uv_N2 = self.place(z_ND, seed)
        # It is defined for fewer neighbours than half of the images.
        neighbours = min(NEIGHBOURS, (len(z_ND) - 1) // 2)
        return uv_N2, float(trustworthiness(z_ND.numpy(), uv_N2.numpy(), n_neighbors=neighbours))

    def _shown(self, given: AnalysisInput, rng: Generator) -> _Shown:
        """Return the sample of the pool that the field names."""
        if self.pool == "train":
            changed_N = given.role_N != CLEAN
            kept = in_proportion(2 * given.train.y_N + changed_N, self.images, rng)
            y_N, role_N = given.train.y_N[kept], given.role_N[kept].long()
            unknown_N = torch.full_like(y_N, -1)
            true_N = torch.where(role_N == CLEAN, y_N, unknown_N)
            stamped_N = role_N == POISON
            x_NCHW = given.train.x_NCHW[kept]
            return _Shown(kept, x_NCHW, role_N, stamped_N, true_N, y_N, unknown_N)

        test, pairs = given.test, given.pairs
        stamped_N = torch.arange(len(test) + len(pairs)) >= len(test)
        true_N = torch.cat([test.y_N, pairs.y_M])
        kept = in_proportion(2 * true_N + stamped_N, self.images, rng)
        # Rows of each part, so that no second copy of all images is made.
        plain, worn = kept[kept < len(test)], kept[kept >= len(test)] - len(test)
        unknown_N = torch.full_like(true_N, -1)
        wanted_N = torch.cat([unknown_N[: len(test)], pairs.wanted_M])
        return _Shown(
            torch.cat([plain, worn]),
            torch.cat([test.x_NCHW[plain], pairs.worn_MCHW[worn]]),
            torch.where(stamped_N, POISON, CLEAN)[kept],
            stamped_N[kept],
            true_N[kept],
            unknown_N[kept],
            wanted_N[kept],
        )

    def _features(self, tool: str, victim: Victim, x_NCHW: Tensor) -> Tensor:
        if self.layer == "features":
            return infer(victim, x_NCHW, victim.embed)
        name = unit_layer(tool, victim, self.layer, x_NCHW[:2])
        # `activations` takes a split, but reads no labels.
        split = Split(x_NCHW, torch.zeros(len(x_NCHW), dtype=torch.int64))
        return activations(victim, split, [name], self._reduced)[name]

    def _reduced(self, out: Tensor) -> Tensor:
        """Return a value for each channel."""
        if out.ndim == 2:
            return out
        out_BCT = by_position(out)
        if self.reduce == "max":
            return out_BCT.amax(2)
        return out_BCT.mean(2) if self.reduce == "mean" else out_BCT.norm(dim=2)


def _labels(y_N: Tensor) -> "pa.Array":
    """Return labels, null where there is none."""
    import pyarrow as pa

    return pa.array([None if y < 0 else y for y in y_N.tolist()], pa.int32())
