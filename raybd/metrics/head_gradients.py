"""Gradients of the cross-entropy by a linear head, of each image: without a backward pass.

The gradient of image i is r_i h_i^T, where r_i = softmax - onehot, and h_i is its embedding with a
1 for the bias. So its norm is |r_i| |h_i|, and its product with a matrix G is r_i^T G h_i.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_gradient(logits_NK: Tensor, z_ND: Tensor, y_N: Tensor, bias: bool = True) -> Tensor:
    """Return the mean gradient over the images, classes x embedding (and bias)."""
    return residuals(logits_NK, y_N).T @ _with_bias(z_ND, bias) / len(y_N)


def alignment(
    logits_NK: Tensor, z_ND: Tensor, y_N: Tensor, whole_KD: Tensor, bias: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the norm of each image's gradient, and its cosine with another gradient.

    A gradient of 0 has no direction: its cosine is 0.
    """
    r_NK = residuals(logits_NK, y_N)
    h_ND = _with_bias(z_ND, bias)
    norm_N = r_NK.norm(dim=1) * h_ND.norm(dim=1)
    product_N = (r_NK @ whole_KD * h_ND).sum(1)
    return norm_N, product_N / (norm_N * whole_KD.norm()).clamp_min(1e-30)


def residuals(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """Return the gradient of the cross-entropy by the logits."""
    return logits_NK.softmax(1) - F.one_hot(y_N, logits_NK.shape[1])


def _with_bias(z_ND: Tensor, bias: bool) -> Tensor:
    return torch.cat([z_ND, z_ND.new_ones(len(z_ND), 1)], 1) if bias else z_ND
