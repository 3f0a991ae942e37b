"""Hessian: how sharp the loss of clean and of poisoned images is at the victim's weights.

Yao, Gholami, Keutzer and Mahoney 2020, arXiv 1912.07145: largest eigenvalues, trace and spectral
density from products with vectors. Eigenvalues by ARPACK.
Differs: images are drawn in proportion to their labels, and the same for all numbers; the Lanczos
method is Papyan's (2020, JMLR 21), without orthogonalising again.
"""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from torch import Generator

from raybd.analyses._curvature import Curvature
from raybd.analyses._needs import need_head
from raybd.analyses._sample import in_proportion
from raybd.analyses._spectrum import Symmetric, density, lanczos, largest, traces
from raybd.ops.global_streams import seed_from
from raybd.types.data import CLEAN, POISON, Split
from raybd.types.methods import Analysis, AnalysisInput

if TYPE_CHECKING:
    import pyarrow as pa

Row = tuple[str, float | None, float | None, float | None]
"""Kind, x, value and standard error."""


class Hessian(Analysis):
    """Eigenvalues, trace and spectral density of the Hessian of the mean loss."""

    looks_at_twin: ClassVar[bool] = True
    images: int = Field(1000, ge=1)
    """Largest number of images of each group."""
    top: int = Field(5, ge=1)
    """Largest eigenvalues."""
    probes: int = Field(10, ge=2)
    """Random vectors for the trace."""
    lanczos: int = Field(80, ge=2)
    """Steps of the Lanczos method for the density; 0.24 million weights fill a vector of 1 MB."""
    kernel: float = Field(0.01, gt=0)
    """Width of the kernel of the density, as a share of the range of the spectrum."""
    points: int = Field(512, ge=2)
    """Places at which the density is computed."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return group, kind (eig, trace, density), x, value and se.

        Groups: `clean` training images and `poison` ones, with the labels that they carry. Where no
        training image is poison, `stamped`: test images with the trigger and the wanted labels. x:
        the number of the eigenvalue from 0, or the place of the density. se: standard error of the
        trace over the probes. Raises Infeasible for a victim without a head.
        """
        import pyarrow as pa

        need_head("hessian", given.victim)
        rows: list[tuple[str, Row]] = []
        for name, split in _groups(given, self.images, rng):
            curvature = Curvature(given.victim, split.x_NCHW, split.y_N)
            # Only the first worker draws from it: `rng` must stay the same on all of them.
            own = Generator().manual_seed(seed_from(rng))
            told = curvature.led(partial(self._rows, curvature, own))
            rows += [(name, row) for row in told]
        columns: list[Any] = list(zip(*(row for _, row in rows), strict=True))
        return pa.table(
            {
                "group": [name for name, _ in rows],
                "kind": columns[0],
                "x": pa.array(columns[1], pa.float64()),
                "value": pa.array(columns[2], pa.float64()),
                "se": pa.array(columns[3], pa.float64()),
            }
        )

    def _rows(self, matrix: Symmetric, rng: Generator) -> list[Row]:
        trace_S = traces(matrix, self.probes, rng)
        se = float(trace_S.std() / self.probes**0.5)
        rows: list[Row] = [("trace", None, float(trace_S.mean()), se)]
        if not trace_S.any():
            # Softmax is saturated on all images: ARPACK cannot start on a matrix of zeros.
            return rows + [("eig", float(number), 0.0, None) for number in range(self.top)]

        eigenvalues = largest(matrix, self.top, rng)
        rows += [("eig", float(number), value, None) for number, value in enumerate(eigenvalues)]
        value_S, weight_S = lanczos(matrix, self.lanczos, rng)
        at_X, density_X = density(value_S, weight_S, self.kernel, self.points)
        told = zip(at_X.tolist(), density_X.tolist(), strict=True)
        return rows + [("density", x, value, None) for x, value in told]


def _groups(given: AnalysisInput, images: int, rng: Generator) -> Iterator[tuple[str, Split]]:
    """Yield the images of each group."""
    whole = {
        "clean": given.train.select(given.role_N == CLEAN),
        "poison": given.train.select(given.role_N == POISON),
    }
    if not len(whole["poison"]):
        whole["stamped"] = Split(given.pairs.worn_MCHW, given.pairs.wanted_M)
    for name, split in whole.items():
        if len(split):
            yield name, split.select(in_proportion(split.y_N, images, rng))
