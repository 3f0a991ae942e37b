"""UMAP: features in two dimensions that keep the graph of nearest neighbours.

McInnes, Healy and Melville 2018, arXiv 1802.03426, section 3. The authors' library umap-learn, with
one thread, so that a seed decides the picture.
Differs: fewer neighbours where there are fewer images.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raybd.analyses._scatter import Scatter


class Umap(Scatter):
    """Place images in the plane by UMAP of their features."""

    library: ClassVar[str] = "umap"
    neighbours: int = Field(15, ge=2)
    """Neighbours of each image in the graph; at most all others."""
    distance: float = Field(0.1, ge=0, le=1)
    """Smallest distance of two images in the plane."""

    def place(self, z_ND: Tensor, seed: int) -> Tensor:
        """Return coordinates N x 2 of features."""
        from umap import UMAP

        fitted = UMAP(
            n_neighbors=min(self.neighbours, len(z_ND) - 1),
            min_dist=self.distance,
            random_state=seed,
            # It warns that a seed needs one thread, unless it is told so.
            n_jobs=1,
        )
        return torch.from_numpy(fitted.fit_transform(z_ND.numpy())).float()
