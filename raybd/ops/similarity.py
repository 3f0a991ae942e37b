"""The structural similarity of images.

Wang, Bovik, Sheikh and Simoncelli 2004, Image quality assessment: from error visibility to
structural similarity, with the authors' Gaussian window of 11 pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 11
DEVIATION = 1.5
"""Standard deviation of the window, in pixels."""
# Keep quotients finite where an image is flat; the authors' values, for a range of 255.
SMALL_MEAN = (0.01 * 255) ** 2
SMALL_VARIANCE = (0.03 * 255) ** 2


def structural_similarity(x_NCHW: Tensor, other_NCHW: Tensor) -> Tensor:
    """Return the mean structural similarity of each pair of images in 0..255; 1 if they are equal.

    The window is cut to the shorter side of small images.
    """
    size = min(WINDOW, *x_NCHW.shape[-2:])
    place_S = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weight_S = (-(place_S**2) / (2 * DEVIATION**2)).exp()
    weight_S = weight_S / weight_S.sum()
    channels = x_NCHW.shape[1]
    down = weight_S.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    across = weight_S.view(1, 1, 1, -1).expand(channels, 1, 1, -1)

    def local_mean(y_NCHW: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(y_NCHW, down, groups=channels), across, groups=channels)

    # Double: a variance is a difference of large numbers.
    x = x_NCHW.double()
    other = other_NCHW.double()
    mean_x = local_mean(x)
    mean_other = local_mean(other)
    variance_x = local_mean(x * x) - mean_x**2
    variance_other = local_mean(other * other) - mean_other**2
    covariance = local_mean(x * other) - mean_x * mean_other

    luminance = (2 * mean_x * mean_other + SMALL_MEAN) / (mean_x**2 + mean_other**2 + SMALL_MEAN)
    structure = (2 * covariance + SMALL_VARIANCE) / (variance_x + variance_other + SMALL_VARIANCE)
    return (luminance * structure).mean((1, 2, 3)).float()
