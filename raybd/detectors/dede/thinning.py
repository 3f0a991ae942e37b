"""Leave out images that a trigger may have moved to one place: those with the nearest neighbours by the embedding.

After the removal of semantic duplicates of Abbas, Tirumala, Simig, Ganguli and Morcos 2023, arXiv 2303.09540. Differs: a share of
the images goes, the most crowded ones, whatever their distance, and none stands for its neighbours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.distributed import group

_NEIGHBOURS = 10


def least_crowded(z_ND: Tensor, share: float) -> Tensor:
    """The rows that are left, ascending, without this share: those with the highest mean cosine to their ten nearest neighbours."""
    u_ND = F.normalize(z_ND.to(group.device()), dim=1)
    nearest = min(_NEIGHBOURS, len(u_ND) - 1) + 1  # one of them is the image itself
    crowd_N = torch.cat([(u_BD @ u_ND.T).topk(nearest).values.mean(1) for u_BD in u_ND.split(2048)])
    return crowd_N.argsort(stable=True)[: len(u_ND) - round(share * len(u_ND))].sort().values.cpu()
