"""Views: each by its own draw, within their bounds, with torchvision's colours and blur."""

import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.training.views import DRAWS_PER_VIEW, Views, blur, crop, jitter
from tests.some_images import some_images


def uniform(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, DRAWS_PER_VIEW, generator=torch.Generator().manual_seed(seed))


def test_each_image_and_each_view_has_its_own_draw() -> None:
    x_BCHW = some_images(1).x_NCHW.expand(6, -1, -1, -1)
    pair = Views().pair(x_BCHW, 6, torch.Generator().manual_seed(0))
    assert pair.shape == (12, 3, 16, 16)
    assert pair.dtype == torch.uint8
    assert len({view.numpy().tobytes() for view in pair}) == 12
    assert torch.equal(pair, Views().pair(x_BCHW, 6, torch.Generator().manual_seed(0)))
    assert not torch.equal(pair, Views().pair(x_BCHW, 6, torch.Generator().manual_seed(1)))


def test_views_without_any_change_are_the_image() -> None:
    x_BCHW = some_images(50).x_NCHW
    still = Views(smallest_crop=1, flip=0, jitter=0, gray=0)
    draw_BP = uniform(50)
    draw_BP[:, 10:20] = 0.5  # square boxes
    assert torch.equal(still.view(x_BCHW, draw_BP), x_BCHW)
    assert torch.equal(
        still.model_copy(update={"flip": 1.0}).view(x_BCHW, draw_BP), x_BCHW.flip(-1)
    )


def test_crops_keep_their_area_their_ratio_and_the_image() -> None:
    centre_B2, half_B2 = Views().boxes(uniform(4000), 32, 32)
    area_B, ratio_B = half_B2.abs().prod(1), half_B2[:, 0].abs() / half_B2[:, 1]
    assert 0.2 <= area_B.min() < 0.21
    assert area_B.max() > 0.97
    assert 0.74 < ratio_B.min() < 0.77
    assert 1.30 < ratio_B.max() < 1.34
    assert (centre_B2.abs() + half_B2.abs()).max() <= 1 + 1e-6
    assert 0.47 < float((half_B2[:, 0] < 0).float().mean()) < 0.53


def test_a_crop_enlarges_its_box() -> None:
    x_BCHW = torch.rand(1, 3, 8, 8)
    quarter = crop(x_BCHW, torch.tensor([[-0.5, 0.5]]), torch.tensor([[0.5, 0.5]]))
    lower_left = x_BCHW[..., 4:, :4]
    wanted = F.interpolate(lower_left, (8, 8), mode="bilinear", align_corners=False)
    assert torch.allclose(quarter[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1], atol=1e-6)


def test_colours_change_as_torchvision_changes_them() -> None:
    import torchvision.transforms.v2.functional as reference

    x_BCHW, unchanged = torch.rand(5, 3, 9, 9), torch.zeros(5, 4)
    x_BCHW[0] = 0.3  # no hue, no saturation
    for at, adjust in enumerate(
        (reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation)
    ):
        change = unchanged.clone()
        change[:, at] = torch.tensor([-0.4, -0.1, 0.0, 0.2, 0.4])
        wanted = torch.stack(
            [adjust(x, 1 + float(by)) for x, by in zip(x_BCHW, change[:, at], strict=True)]
        )
        assert torch.allclose(jitter(x_BCHW, change), wanted, atol=1e-4)
    for turn in (-0.5, -0.2, 0.1, 0.5):
        change = unchanged.clone()
        change[:, 3] = turn
        assert torch.allclose(jitter(x_BCHW, change), reference.adjust_hue(x_BCHW, turn), atol=1e-5)


def test_the_asked_share_of_views_is_gray_and_jittered() -> None:
    x_BCHW = some_images(4, side=8).x_NCHW.repeat(500, 1, 1, 1)
    gray = Views(jitter=0).view(x_BCHW, uniform(2000))
    assert 0.17 < float((gray[:, 0] == gray[:, 1]).all((1, 2)).float().mean()) < 0.23
    still = {"smallest_crop": 1.0, "flip": 0.0, "gray": 0.0}
    draw_BP = uniform(2000)
    draw_BP[:, 10:20] = 0.5
    changed = (Views(**still).view(x_BCHW, draw_BP) != x_BCHW).flatten(1).any(1)
    assert 0.77 < float(changed.float().mean()) < 0.83


def test_blur_of_no_image_changes_nothing() -> None:
    x_BCHW = torch.rand(3, 3, 8, 8)
    nobody = torch.zeros(3, dtype=torch.bool)
    assert torch.equal(blur(x_BCHW, nobody, torch.ones(3)), x_BCHW)


def test_blur_is_a_gaussian_on_the_chosen_images() -> None:
    import torchvision.transforms.v2.functional as reference

    x_BCHW = torch.rand(3, 3, 40, 40)
    blurred = blur(x_BCHW, torch.tensor([True, False, True]), torch.tensor([1.0, 1.0, 0.5]))
    assert torch.equal(blurred[1], x_BCHW[1])
    inner = (..., slice(2, -2), slice(2, -2))
    for row, deviation in ((0, 1.0), (2, 0.5)):
        assert torch.allclose(
            blurred[row][inner],
            reference.gaussian_blur(x_BCHW[row], [5, 5], [deviation] * 2)[inner],
            atol=1e-5,
        )
