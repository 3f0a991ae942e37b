"""Leaves out images that a trigger may have moved to one place: those with the nearest neighbours.

After the removal of semantic duplicates of Abbas, Tirumala, Simig, Ganguli and Morcos 2023, arXiv
2303.09540. Differs: a share of the images is removed, the most crowded ones, whatever their
distance, and none of them is kept to represent its neighbours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.distributed import group

NEIGHBOURS = 10
"""Neighbours of an image that tell how crowded its place is."""


def least_crowded(z_ND: Tensor, share: float) -> Tensor:
    """Return the rows, ascending, that remain without this share of the most crowded images.

    Crowded are those with the highest mean cosine to their ten nearest neighbours by embedding.
    """
    u_ND = F.normalize(z_ND.to(group.device()), dim=1)
    nearest = min(NEIGHBOURS, len(u_ND) - 1) + 1  # one of them is the image itself
    # In parts, because the cosines of all pairs at once would fill the memory.
    crowd_N = torch.cat([(u_BD @ u_ND.T).topk(nearest).values.mean(1) for u_BD in u_ND.split(2048)])
    kept = len(u_ND) - round(share * len(u_ND))
    return crowd_N.argsort(stable=True)[:kept].sort().values.cpu()
