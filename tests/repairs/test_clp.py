"""CLP: its formula, its golden case, and what it says about itself."""

import pytest
import torch
from torch import nn

from raybd.networks.small_cnn import SmallCnn
from raybd.repairs.clp import Clp
from raybd.training.inference import infer
from raybd.training.layers import channel_bounds
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from tests.small_scene import images, small_scene, stream


def one_layer(channels: int, largest: float = 1.0) -> Victim:
    """A 1 x 1 convolution whose filters are .1, but for the last one."""
    conv = nn.Conv2d(1, channels, 1, bias=False)
    with torch.no_grad():
        conv.weight.fill_(0.1)
        conv.weight[-1] = largest
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.bias, 0.25)
    encoder = nn.Sequential(conv, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Victim(encoder, None, torch.zeros(1), torch.ones(1)).eval()


def pruned(victim: Victim, **fields: float) -> tuple[nn.BatchNorm2d, dict[str, float], str | None]:
    suspects = small_scene()[1].select(torch.arange(4))
    gray = Split(suspects.x_NCHW[:, :1], suspects.y_N)
    defended = Clp(**fields).repair(victim, gray, gray, stream())
    norm = defended.victim.encoder.get_submodule("1")
    assert isinstance(norm, nn.BatchNorm2d)
    return norm, dict(defended.facts), defended.warning


def test_one_channel_of_eleven_is_pruned_and_one_of_ten_is_out_of_reach() -> None:
    norm, facts, warning = pruned(one_layer(11))
    assert norm.weight.tolist() == [1.0] * 10 + [0.0]
    assert norm.bias.tolist() == [0.25] * 10 + [0.0], "it puts out nothing"
    assert facts["max_z[0]"] == pytest.approx(10 / 11**0.5)
    assert (facts["pruned_channels"], facts["channels"]) == (1, 11)
    assert warning is None

    norm, facts, warning = pruned(one_layer(10))
    assert norm.weight.tolist() == [1.0] * 10
    assert facts["max_z[0]"] == pytest.approx(9 / 10**0.5)
    assert (facts["pruned_channels"], facts["channels"]) == (0, 10)
    assert warning is not None and "nothing was pruned" in warning


@pytest.mark.parametrize(("read", "warns"), [(10, True), (0, False)])
def test_a_pruned_channel_that_the_victim_needed_gives_a_warning(read: int, warns: bool) -> None:
    # Of eleven channels the last one is pruned. All show the brightness; the head reads one.
    victim = one_layer(11)
    head = nn.Linear(11, 2)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[1, read] = 1.0
        # Halfway between the brightness of the two classes, as this channel shows it.
        head.bias.copy_(torch.tensor([0.25 + 0.5 * (1.0 if read == 10 else 0.1), 0.0]))
    victim.head = head
    y_N = torch.arange(60) % 2
    clean = Split((255 * y_N).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4), y_N)
    defended = Clp().repair(victim, clean, clean, stream())
    assert defended.facts["pruned_channels"] == 1
    assert defended.facts["clean_part_accuracy_before"] == 1.0
    if not warns:
        assert defended.facts["clean_part_accuracy_after"] == 1.0
        assert defended.warning is None
        return
    assert defended.facts["clean_part_accuracy_after"] == 0.5
    assert defended.warning is not None
    assert "clp: accuracy on 60 trusted images is 0.50, and 1.00 before it" in defended.warning

    # So few images say nothing.
    few = clean.select(torch.arange(40))
    assert Clp().repair(victim, few, few, stream()).warning is None


def test_equal_channels_and_a_single_one_are_left_alone() -> None:
    for victim in (one_layer(12, largest=0.1), one_layer(1)):
        _, facts, warning = pruned(victim, u=0.5)
        assert facts["pruned_channels"] == 0
        assert facts["max_z[0]"] == pytest.approx(0, abs=1e-3)
        assert warning is not None


def test_a_bound_is_the_largest_singular_value_times_the_scale_of_the_normalisation() -> None:
    conv = nn.Conv2d(3, 5, 3)
    norm = nn.BatchNorm2d(5, eps=0.01)
    assert norm.running_var is not None
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0]))
        norm.running_var.copy_(torch.rand(5, generator=stream()) + 0.1)
    for channel, bound in enumerate(channel_bounds(conv, norm).tolist()):
        singular = torch.linalg.svdvals(conv.weight[channel].detach().reshape(3, 9))[0]
        deviation = (norm.running_var[channel] + 0.01).sqrt()
        expected = float(singular * norm.weight[channel].detach().abs() / deviation)
        assert bound == pytest.approx(expected, rel=1e-5)


def test_a_pruned_channel_puts_out_nothing_and_no_other_weight_changes() -> None:
    victim, suspects, clean = small_scene()
    defended = Clp(u=1.5).repair(victim, suspects, clean, stream())
    modules = victim.encoder.named_modules()
    norms = [name for name, module in modules if isinstance(module, nn.BatchNorm2d)]
    after = defended.victim.state_dict()
    changed = 0
    for name, value in victim.state_dict().items():
        module, _, kind = name.removeprefix("encoder.").rpartition(".")
        if module in norms and kind in ("weight", "bias"):
            silent = after[f"encoder.{module}.weight"] == 0
            assert torch.equal(after[name][~silent], value[~silent])
            assert (after[name][silent] == 0).all()
            changed += int(silent.sum()) if kind == "weight" else 0
        else:
            assert torch.equal(after[name], value)
    assert changed == defended.facts["pruned_channels"] > 0


def test_a_pruned_layer_is_found_through_shortcuts_and_another_order_of_definition() -> None:
    class Reversed(nn.Module):
        """Defines its layers in the opposite order of their use."""

        def __init__(self) -> None:
            super().__init__()
            self.last = nn.BatchNorm2d(12)
            self.first_norm = nn.BatchNorm2d(12)
            self.second = nn.Conv2d(12, 12, 1)
            self.first = nn.Conv2d(3, 12, 1)

        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            x_BCHW = self.first_norm(self.first(x_BCHW)).relu()
            z_BD: torch.Tensor = self.last(self.second(x_BCHW) + x_BCHW).mean((2, 3))
            return z_BD

    encoder = Reversed()
    with torch.no_grad():
        encoder.first.weight[3] = 100
    victim = Victim(encoder, None, torch.zeros(3), torch.ones(3)).eval()
    _, suspects, clean = small_scene()
    defended = Clp().repair(victim, suspects, clean, stream())
    assert "max_z[first]" in defended.facts
    assert "max_z[second]" not in defended.facts, "the last normalisation is fed by a sum"
    weight_C = defended.victim.state_dict()["encoder.first_norm.weight"]
    assert (weight_C == 0).nonzero().flatten().tolist() == [3]


def test_without_pairs_there_is_nothing_to_prune() -> None:
    encoder = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    victim = Victim(encoder, None, torch.zeros(3), torch.ones(3)).eval()
    _, suspects, clean = small_scene()
    with pytest.raises(Infeasible, match="no convolution"):
        Clp().repair(victim, suspects, clean, stream())


def test_the_facts_have_the_accuracy_on_the_clean_part() -> None:
    _, suspects, clean = small_scene()
    victim = new_victim(suspects, 3, SmallCnn(width=16), stream()).eval()
    defended = Clp(u=1.0).repair(victim, suspects, clean, stream())
    for name, model in (("before", victim), ("after", defended.victim)):
        right = infer(model, clean.x_NCHW).argmax(1) == clean.y_N
        assert defended.facts[f"clean_part_accuracy_{name}"] == pytest.approx(
            float(right.float().mean())
        )
    victim.head = None
    headless = Clp(u=1.0).repair(victim, suspects, clean, stream())
    assert not any("accuracy" in name for name in headless.facts)
    assert infer(headless.victim, images(2)).shape == (2, 64)
