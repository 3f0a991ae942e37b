"""t-SNE: features in two dimensions in which neighbours stay neighbours.

van der Maaten and Hinton 2008, "Visualizing data using t-SNE", JMLR 9, section 3. scikit-learn's,
with the approximation of Barnes and Hut.
Differs: it stands on the first principal components; the perplexity is lowered where there are
fewer images than three times as many.
"""

import torch
from pydantic import Field
from torch import Tensor

from raybd.analyses._scatter import Scatter


class Tsne(Scatter):
    """Place images in the plane by t-SNE of their features."""

    perplexity: float = Field(30.0, gt=0)
    """Effective number of neighbours; at most a third of the images."""
    components: int = Field(50, ge=2)
    """Principal components that it stands on, all of them if there are fewer."""
    steps: int = Field(1000, ge=250)
    """Steps of the descent."""

    def place(self, z_ND: Tensor, seed: int) -> Tensor:
        """Return coordinates N x 2 of features."""
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE

        kept = min(self.components, *z_ND.shape)
        flat_NP = PCA(kept, svd_solver="full").fit_transform(z_ND.double().numpy())
        tsne = TSNE(
            perplexity=min(self.perplexity, (len(z_ND) - 1) / 3),
            # Principal components need two columns.
            init="pca" if kept > 1 else "random",
            max_iter=self.steps,
            random_state=seed,
        )
        return torch.from_numpy(tsne.fit_transform(flat_NP)).float()
