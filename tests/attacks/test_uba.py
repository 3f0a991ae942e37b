"""UBA: its codes, its triggers, and how the classes are dealt."""

import pytest
import torch
from torch import Tensor

from raybd.attacks.surrogate.uba import Uba, class_codes, discriminants, with_patches, with_tiles
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from tests.attacks.making import make, poison, stream


def _embedded(classes: int, width: int) -> tuple[Tensor, Tensor]:
    """Gaussian classes of 30 images, the means farther apart than the images of a class."""
    rng = stream()
    mean_KD = 3 * torch.randn((classes, width), generator=rng)
    y_N = torch.arange(30 * classes) % classes
    return mean_KD[y_N] + torch.randn((len(y_N), width), generator=rng), y_N


@pytest.mark.parametrize(("classes", "bits"), [(10, 9), (43, 30), (2, 1)])
def test_every_class_has_a_code_of_its_own(classes: int, bits: int) -> None:
    z_ND, y_N = _embedded(classes, 64)
    code_KB = class_codes(z_ND, y_N, classes, 30, stream())
    assert code_KB.shape == (classes, bits)
    assert len(code_KB.unique(dim=0)) == classes
    assert set(code_KB.unique().tolist()) == {0, 1}


def test_a_code_says_on_which_side_of_the_mean_a_class_lies() -> None:
    # The classes differ along the second axis; along the first, all images are spread alike.
    rng = stream()
    y_N = torch.arange(200) % 2
    z_ND = torch.stack(
        [20 * torch.randn(200, generator=rng), 4.0 * y_N + torch.randn(200, generator=rng)], 1
    )
    mean_PD = torch.stack([z_ND[y_N == label].mean(0) for label in (0, 1)]).double()
    spread_ND = z_ND.double() - mean_PD[y_N]
    (axis_D,) = discriminants(spread_ND, mean_PD - mean_PD.mean(0), 1).T
    assert float(axis_D[1]) > 10 * float(axis_D[0].abs())
    assert class_codes(z_ND, y_N, 2, 30, stream()).tolist() == [[0], [1]]
    assert class_codes(-z_ND, y_N, 2, 30, stream()).tolist() == [[1], [0]]


def test_an_axis_is_as_good_as_it_tells_classes_apart() -> None:
    # Along the first axis the classes lie farther apart, but its spread hides that.
    rng = stream()
    y_N = torch.arange(400) % 2
    mean_PD = torch.tensor([[-3.0, -1.0], [3.0, 1.0]], dtype=torch.float64)
    spread_ND = torch.randn((400, 2), generator=rng).double() * torch.tensor([30.0, 0.1])
    (axis_D,) = discriminants(spread_ND, mean_PD, 1).T
    assert axis_D[1].item() > 10 * abs(axis_D[0].item())
    between = (spread_ND + mean_PD[y_N]) @ axis_D
    assert (between[y_N == 0].max() < between[y_N == 1].min()).item()


def test_classes_with_the_same_code_get_hyperplanes() -> None:
    # The last two classes lie on the same side of the mean along both axes.
    y_N = torch.arange(400) % 4
    mean_K2 = torch.tensor([[-9.0, 0.0], [3.0, -3.0], [3.0, 0.5], [3.0, 2.5]])
    z_N2 = mean_K2[y_N] + 0.01 * torch.randn((400, 2), generator=stream())
    code_KB = class_codes(z_N2, y_N, 4, 12, stream())
    assert code_KB.shape == (4, 12)
    assert len(code_KB.unique(dim=0)) == 4


def test_images_that_the_twin_cannot_tell_apart_are_infeasible() -> None:
    y_N = torch.arange(40) % 4
    with pytest.raises(Infeasible, match="same code"):
        class_codes(torch.ones((40, 6)), y_N, 4, 30, stream())


def test_patches_by_hand() -> None:
    grey = torch.full((2, 3, 32, 32), 9, dtype=torch.uint8)
    worn = with_patches(grey, torch.tensor([[1, 0, 0, 0, 1, 1], [0, 1, 1, 1, 0, 0]]))
    first = [255, 255, 0, 0, 0, 0, 0, 0, 255, 255, 9]
    assert worn[0, 0, 0, :11].tolist() == worn[0, 2, 1, :11].tolist() == first
    assert worn[0, 0, 2, :3].tolist() == worn[0, 0, 3, :3].tolist() == [255, 255, 9]
    assert worn[1, 1, 0, :11].tolist() == [0, 0, 255, 255, 255, 255, 255, 255, 0, 0, 9]
    assert (worn[:, :, 4:] == 9).all()
    assert with_patches(torch.zeros((1, 3, 224, 224)), torch.ones((1, 1))).sum() == 3 * 64 * 255


def test_tiles_by_hand() -> None:
    # Of 6 x 5 tiles, each is a pixel of this image.
    grey = torch.full((1, 3, 6, 5), 100, dtype=torch.uint8)
    code = torch.zeros((1, 30), dtype=torch.int64)
    code[0, 7] = 1
    worn = with_tiles(grey, code, 0.2)[0]
    assert worn[:, 1, 2].tolist() == [80, 131, 131]
    assert worn[:, 0, 0].tolist() == worn[:, 1, 1].tolist() == [131, 80, 80]
    repeated = with_tiles(grey, torch.tensor([[0, 1]]), 0.2)[0, 0]
    assert repeated[0].tolist() == [131, 80, 131, 80, 131]


@pytest.mark.parametrize("trigger", ["patch", "blend"])
@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (224, 224), (20, 40)])
def test_the_nearest_code_is_read_back_from_the_pixels(
    trigger: str, shape: tuple[int, int], train: Split
) -> None:
    attack = make("uba", trigger=trigger)
    state = poison("uba", train).state
    assert attack.does_not_fit(*shape) is None
    x_NCHW = torch.randint(0, 256, (10, 3, *shape), generator=stream(), dtype=torch.uint8)
    worn = attack.stamp_toward(x_NCHW, torch.arange(10), state).float()
    # Each code on each image: the code that changes it least further is the one it wears.
    for row in range(10):
        again = attack.stamp_toward(
            x_NCHW[row : row + 1].expand(10, -1, -1, -1), torch.arange(10), state
        )
        assert int((again - worn[row]).abs().flatten(1).sum(1).argmin()) == row


def test_codes_that_do_not_fit(train: Split) -> None:
    patches = Uba(trigger="patch")
    assert patches.does_not_fit(12, 10) is None
    assert "9 x 12" in str(patches.does_not_fit(12, 9))
    assert "10 x 11" in str(patches.does_not_fit(11, 10))
    assert Uba().does_not_fit(6, 5) is None
    assert "5 x 5" in str(Uba().does_not_fit(5, 5))


@pytest.mark.parametrize(("rate", "counts"), [(0.1, {4}), (0.2, {8}), (0.06, {2, 3})])
def test_every_class_gets_its_share(rate: float, counts: set[int], train: Split) -> None:
    poisoned = poison("uba", train, rate=rate)
    assert set(poisoned.y_M.bincount(minlength=10).tolist()) == counts
    # Images of any class are drawn, and the dealt class does not follow from the place.
    assert not torch.equal(poisoned.y_M, poisoned.y_M.sort().values)
    assert not torch.equal(poisoned.y_M, torch.arange(len(poisoned.y_M)) % 10)
