"""WaNet: its warp and its noise images."""

import torch

from raybd.attacks.data.wanet import WaNet, draw_grid
from raybd.types.data import CROSS, POISON, Split
from tests.attacks.making import poison, poison_with, stream, triggered


def test_without_strength_changes_nothing_and_with_it_reproduces_its_poison_bit_for_bit(
    train: Split,
) -> None:
    still = poison_with(WaNet(strength=0), train)
    assert torch.equal(triggered(still, train.x_NCHW), train.x_NCHW)
    poisoned = poison("wanet", train)
    warped = poisoned.role_M == POISON
    assert torch.equal(
        WaNet().stamp(train.x_NCHW[poisoned.index_M[warped]], poisoned.state),
        poisoned.x_MCHW[warped],
    )
    assert not torch.equal(
        WaNet().stamp(train.x_NCHW[poisoned.index_M[~warped]], poisoned.state),
        poisoned.x_MCHW[~warped],
    )


def test_shifts_its_control_points_by_its_strength_on_average() -> None:
    line = torch.linspace(-1, 1, 4)
    identity_HW2 = torch.stack([line.expand(4, 4), line[:, None].expand(4, 4)], dim=2)
    shift_HW2 = draw_grid(4, 4, 4, 0.1, stream()) - identity_HW2
    inner = shift_HW2[1:-1, 1:-1]  # those at the border are held inside the image
    drawn_HW2 = 2 * torch.rand((2, 4, 4), generator=stream()).permute(1, 2, 0) - 1
    expected_HW2 = 0.1 / 4 * drawn_HW2 / drawn_HW2.abs().mean()
    assert torch.allclose(inner, expected_HW2[1:-1, 1:-1], atol=1e-6)


def test_noise_images_keep_their_label(train: Split) -> None:
    poisoned = poison("wanet", train)
    noisy = poisoned.index_M[poisoned.role_M == CROSS]
    assert len(noisy) == 80
    assert torch.equal(poisoned.over(train).y_N[noisy], train.y_N[noisy])
