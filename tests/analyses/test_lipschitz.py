"""Lipschitz bounds: filters by hand, the traced normalisation, and the relation to the trigger."""

import pytest
import torch
from torch import Tensor, nn

from raybd.analyses.lipschitz import Lipschitz
from raybd.networks.preact_resnet18 import PreactResnet18
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.errors import UserError
from tests.analyses.by_hand import grey, pairs_by_hand, unscaled, victim
from tests.analyses.given import given
from tests.small_scene import images, stream

PAIRS = pairs_by_hand(grey([[0, 0], [0, 0]]), grey([[0, 0], [0, 1]]))


def conv(weight: Tensor) -> nn.Conv2d:
    size = weight.shape[2]
    layer = nn.Conv2d(3, len(weight), size, padding=size // 2, bias=False)
    layer.weight.data = weight
    return layer


def norm(gamma: list[float], variance: float, eps: float = 0) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(len(gamma), eps=eps)
    layer.weight.data = torch.tensor(gamma)
    assert layer.running_var is not None
    layer.running_var.fill_(variance)
    return layer


def measured(*modules: nn.Module, **fields: float) -> dict[str, list[float]]:
    encoder = nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    tool = Lipschitz.model_validate(fields)
    table = tool.analyse(given(unscaled(encoder, None), PAIRS), stream())
    found: dict[str, list[float]] = table.to_pydict()
    return found


def test_a_filter_of_one_input_channel_has_its_frobenius_norm() -> None:
    weight = torch.zeros(2, 3, 3, 3)
    weight[0, 0] = torch.arange(9.0).view(3, 3)
    weight[1, 0, 1, 1] = -3
    found = measured(conv(weight))
    assert found["lipschitz"] == pytest.approx([204**0.5, 3])


def test_the_normalisation_behind_it_scales_a_bound_whatever_its_sign() -> None:
    weight = torch.zeros(2, 3, 1, 1)
    weight[:, 0] = 1
    found = measured(conv(weight), norm([2.0, -2.0], 0.25))
    assert found["lipschitz"] == pytest.approx([4, 4])
    # The change of .25 pixels' mean is read behind the normalisation: one pixel of 1, four times.
    assert found["tac"] == pytest.approx([4, 4]) and found["z"] == [0, 0]
    assert found["spearman"] == [None, None]
    scaled = measured(conv(weight), norm([2.0, 1.0], 0.25, eps=0.75))
    assert scaled["lipschitz"] == pytest.approx([2, 1])


def test_a_linear_layer_has_the_norms_of_its_rows() -> None:
    layer = nn.Linear(12, 2, bias=False)
    layer.weight.data = torch.zeros(2, 12)
    layer.weight.data[0, :2] = torch.tensor([3.0, 4.0])
    encoder = nn.Sequential(nn.Flatten(), layer)
    tool = Lipschitz()
    found = tool.analyse(given(unscaled(encoder, None), PAIRS), stream()).to_pydict()
    assert found["lipschitz"] == pytest.approx([5, 0])


def test_deviations_outliers_and_ranks_are_those_of_the_layer() -> None:
    weight = torch.zeros(5, 3, 1, 1)
    weight[:, 0, 0, 0] = torch.tensor([1.0, 1, 1, 1, 6])
    found = measured(conv(weight), u=1.7)
    sd = 5**0.5
    assert found["z"] == pytest.approx([-1 / sd] * 4 + [4 / sd])
    assert found["outlier"] == [False] * 4 + [True]
    assert measured(conv(weight), u=1.8)["outlier"] == [False] * 5
    # The change of a unit is proportional to its weight here.
    assert found["spearman"] == pytest.approx([1] * 5)


def test_a_pre_activation_block_is_traced_and_not_read_in_the_order_of_definition() -> None:
    split = Split(images(4, side=32), torch.tensor([0, 1, 0, 1]))
    model = new_victim(split, 2, PreactResnet18(), stream()).eval()
    pairs = pairs_by_hand(split.x_NCHW, 255 - split.x_NCHW)
    found = Lipschitz(images=2).analyse(given(model, pairs, split), stream()).to_pandas()
    convs = {n for n, m in model.encoder.named_modules() if isinstance(m, nn.Conv2d)}
    assert set(found["layer"]) == convs
    assert found["spearman"].abs().max() <= 1 and found["lipschitz"].gt(0).all()


def test_without_a_trigger_bounds_are_all_there_is() -> None:
    encoder = nn.Sequential(conv(torch.ones(2, 3, 1, 1)), nn.Flatten())
    none = pairs_by_hand(PAIRS.x_MCHW[:0], PAIRS.worn_MCHW[:0])
    clean = given(unscaled(encoder, None), PAIRS).clean
    found = Lipschitz().analyse(given(unscaled(encoder, None), none, clean), stream()).to_pydict()
    assert found["lipschitz"] == pytest.approx([3**0.5] * 2)
    assert found["tac"] == [None, None]


def test_an_encoder_without_weights_is_one_clear_error() -> None:
    with pytest.raises(UserError, match="no convolution and no linear layer"):
        Lipschitz().analyse(given(victim(lambda x: x), PAIRS), stream())
