"""Twin path: loss and accuracy on the straight line from the clean twin to the victim.

Goodfellow, Vinyals and Saxe 2015, arXiv 1412.6544, section 3, for the line between two networks;
that a backdoor and the task may part on such a line is the idea of mode connectivity repair, Zhao
et al. 2020, arXiv 2005.00060.
Differs: the statistics of normalisation move with the weights. The line ends at both networks:
beyond them, variances would become negative.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Generator

from raybd.analyses._needs import need_head, need_pairs
from raybd.analyses._surface import shown, surface, table
from raybd.types.errors import Infeasible
from raybd.types.methods import Analysis, AnalysisInput

if TYPE_CHECKING:
    import pyarrow as pa


class TwinPath(Analysis):
    """Loss of clean and stamped images between the clean twin (a = 0) and the victim (a = 1)."""

    needs_trigger: ClassVar[bool] = True
    needs_twin: ClassVar[bool] = True
    points: int = Field(21, ge=2)
    """Points of the line, both ends among them."""
    images: int = Field(1000, ge=1)
    """Largest number of test images of each kind."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return coordinate a, group, mean loss and accuracy; groups as of landscape.

        Raises Infeasible for a victim without a head, or of other tensors than the twin's.
        """
        victim, twin = given.victim, given.twin
        assert twin is not None, "the stage gives the clean twin"
        need_head("twin_path", victim)
        need_pairs("twin_path", given.pairs)
        start, end = twin.state_dict(), victim.state_dict()
        if {n: t.shape for n, t in start.items()} != {n: t.shape for n, t in end.items()}:
            raise Infeasible("twin_path: the victim has other modules than its clean twin")
        images = shown(given, self.images, rng)

        # Counts of batches are whole numbers, and no output depends on them.
        line = {
            name: part.cpu() - start[name].cpu()
            for name, part in end.items()
            if part.is_floating_point()
        }
        a_P = torch.linspace(0, 1, self.points, dtype=torch.float64)
        told_PG2 = surface(victim, start, [line], a_P[:, None], images)
        return table({"a": a_P}, told_PG2, images)
