"""Embedding drift: how far each layer of a victim is from that of its clean twin.

Kornblith, Norouzi, Lee and Hinton 2019, arXiv 1905.00414, section 3 (linear CKA).
Differs: images without and with the trigger apart, so that a drift by the backdoor can be told from
one by training; the mean cosine of the two embeddings of an image stands beside CKA. It depends on
the axes: only twins of one initialisation have them in common.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.analyses._units import Reduction, first_pairs, floats, layers_of, reduced
from raybd.types.errors import UserError
from raybd.types.methods import Analysis, AnalysisInput

if TYPE_CHECKING:
    import pyarrow as pa


class EmbeddingDrift(Analysis):
    """Linear CKA and mean cosine between a victim and its clean twin, for each layer."""

    needs_trigger: ClassVar[bool] = True
    needs_twin: ClassVar[bool] = True
    layer: str = "all"
    """Dotted name of a module of the encoder, last_map, features, or all."""
    reduction: Reduction = "mean"
    """What a map is reduced to over its positions."""
    images: int = Field(500, ge=2)
    """Largest number of test images, the first ones that count."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return layer, group (clean or stamped), cka and cosine.

        CKA is null where a layer puts out the same for all images, the cosine where the layers
        differ in width. Layers that only one of both has are left out; UserError if all are.
        """
        import pyarrow as pa

        pairs = first_pairs("embedding_drift", given.pairs, self.images)
        assert given.twin is not None, "a tool that needs the twin is given it"
        ours = layers_of("embedding_drift", given.victim, pairs.x_MCHW, self.layer)
        theirs = {*layers_of("embedding_drift", given.twin, pairs.x_MCHW, self.layer)}
        names = [name for name in ours if name in theirs]
        if not names:
            raise UserError(
                "embedding_drift: victim and twin have no layer in common",
                "Take layer: features.",
                exit_code=1,
            )
        rows = []
        for group, x_NCHW in (("clean", pairs.x_MCHW), ("stamped", pairs.worn_MCHW)):
            own = reduced(given.victim, x_NCHW, names, self.reduction)
            other = reduced(given.twin, x_NCHW, names, self.reduction)
            rows += [
                (name, group, linear_cka(own[name], other[name]), _cosine(own[name], other[name]))
                for name in names
            ]
        return pa.table(
            {
                "layer": [row[0] for row in rows],
                "group": [row[1] for row in rows],
                "cka": floats(row[2] for row in rows),
                "cosine": floats(row[3] for row in rows),
            }
        )


def linear_cka(x_ND: Tensor, y_ND: Tensor) -> float:
    """Return linear CKA of two representations of the same images; NaN if one is constant."""
    x_ND = x_ND.double() - x_ND.double().mean(0)
    y_ND = y_ND.double() - y_ND.double().mean(0)
    scale = (x_ND.T @ x_ND).norm() * (y_ND.T @ y_ND).norm()
    return float((x_ND.T @ y_ND).norm().square() / scale) if scale else float("nan")


def _cosine(x_ND: Tensor, y_ND: Tensor) -> float:
    if x_ND.shape != y_ND.shape:
        return float("nan")
    return float(torch.cosine_similarity(x_ND, y_ND, dim=1).mean())
