"""IBD-PSC: what is amplified, how many layers, and the score."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raybd.detectors.ibd_psc import IbdPsc, amplified
from raybd.networks.preact_resnet18 import PreactResnet18
from raybd.networks.vit_tiny import VitTiny
from raybd.training import layers
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from tests.small_scene import small_scene, stream


def _norms(victim: Victim) -> list[nn.BatchNorm2d]:
    return layers.norms(victim, small_scene()[2].x_NCHW[:2])


def test_an_amplified_layer_puts_out_exactly_the_factor_times_as_much() -> None:
    norm = nn.BatchNorm2d(4).eval()
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    x_BCHW = torch.randn(2, 4, 3, 3, generator=stream())
    plain = norm(x_BCHW)
    scaled = copy.deepcopy(norm)
    with torch.no_grad():
        scaled.weight.mul_(2)
        scaled.bias.mul_(2)
    with amplified([norm], 1, 2.0):
        assert torch.equal(norm(x_BCHW), 2 * plain)
        assert torch.equal(norm(x_BCHW), scaled(x_BCHW))
    assert torch.equal(norm(x_BCHW), plain)


def test_the_last_layers_in_the_order_of_execution_are_amplified() -> None:
    victim, _, clean = small_scene()
    norms = _norms(victim)
    copied = copy.deepcopy(victim)
    with torch.no_grad():
        for norm in _norms(copied)[-2:]:
            norm.weight.mul_(1.5)
            norm.bias.mul_(1.5)
        with amplified(norms, 2, 1.5):
            found = victim(clean.x_NCHW)
        assert torch.allclose(found, copied(clean.x_NCHW), atol=1e-4)
        assert not torch.allclose(found, victim(clean.x_NCHW), atol=1e-2)


class _Norms(nn.Module):
    """Four batch norms of which only the second last changes predictions, if it is amplified."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(4))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        outs = [norm(x_BCHW) for norm in self.norms]
        # Class 0 until the amplified output passes 1.2 times the plain one.
        over_B = outs[2][:, 0, 0, 0] - 1.2 * x_BCHW[:, 0, 0, 0]
        return torch.stack([-over_B, over_B], 1)


class _Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z_BD: Tensor) -> Tensor:
        return self.factor * z_BD


def _by_hand() -> tuple[Victim, Split]:
    victim = Victim(_Norms(), nn.Identity(), torch.zeros(3), torch.ones(3)).eval()
    return victim, Split(torch.full((8, 3, 2, 2), 255, dtype=torch.uint8), torch.zeros(8).long())


def test_the_fewest_layers_are_those_whose_error_exceeds_the_bar() -> None:
    victim, clean = _by_hand()
    assert IbdPsc().choose(victim, _norms_of(victim), clean) == (1.5, 2)


def _norms_of(victim: Victim) -> list[nn.BatchNorm2d]:
    return layers.norms(victim, torch.zeros(2, 3, 2, 2, dtype=torch.uint8))


def test_the_factor_grows_until_the_accuracy_breaks_and_the_verdict_says_so() -> None:
    victim, clean = _by_hand()
    factor, fewest = IbdPsc(factor=1.1).choose(victim, _norms_of(victim), clean)
    assert factor == pytest.approx(1.375)
    assert fewest == 2
    verdict = IbdPsc(factor=1.1).learn(victim, clean, stream())(clean)
    assert verdict.warning is not None and "1.38 was taken" in verdict.warning
    assert IbdPsc().learn(victim, clean, stream())(clean).warning is None


def test_the_score_is_the_mean_probability_from_the_fewest_layers_on() -> None:
    victim, suspects, clean = small_scene()
    norms = _norms(victim)
    detector = IbdPsc(models=2)
    learned = clean.select(torch.randperm(30, generator=stream())[:15])
    factor, fewest = detector.choose(victim, norms, learned)
    verdict = detector.learn(victim, clean, stream())(suspects)
    expected = torch.zeros(len(suspects))
    with torch.no_grad():
        label = victim(suspects.x_NCHW).argmax(1)
        for count in (fewest, fewest + 1):
            with amplified(norms, count, factor):
                p = victim(suspects.x_NCHW).softmax(1)
            expected += p[torch.arange(len(suspects)), label] / 2
    assert torch.allclose(1 - (-verdict.score_N).exp(), expected, atol=1e-5)
    share = float((expected > 0.9).double().mean())
    assert verdict.facts["share above 0.9"] == pytest.approx(share)
    published = IbdPsc(models=2, threshold=0.9).learn(victim, clean, stream())(suspects)
    assert torch.equal(published.score_N > published.threshold_N, expected > 0.9)


def test_probabilities_that_round_to_one_do_not_tie() -> None:
    victim, clean = _by_hand()
    sure = Victim(victim.encoder, _Times(60), victim.mean_C, victim.std_C).eval()
    surer = Victim(victim.encoder, _Times(90), victim.mean_C, victim.std_C).eval()
    # The first three batch norms are not amplified, so that class 0 stays.
    with torch.no_grad():
        found = [
            float(IbdPsc().consistency(one, _norms_of(one), [1], 1.5, clean.x_NCHW)[0])
            for one in (sure, surer)
        ]
    assert found == pytest.approx([24.0, 36.0], abs=1e-2)


def test_there_are_fewer_models_where_the_network_has_no_more_layers() -> None:
    victim, clean = _by_hand()
    verdict = IbdPsc(models=50).learn(victim, clean, stream())(clean)
    # Two, three and four layers: in each the second last is amplified, and class 1 wins.
    p = float(torch.tensor([-0.3, 0.3]).softmax(0)[0])
    assert verdict.score_N.tolist() == pytest.approx([-math.log(1 - p)] * 8, abs=1e-3)


@pytest.mark.parametrize(("network", "feasible"), [(VitTiny(), False), (PreactResnet18(), True)])
def test_a_plan_knows_that_it_needs_batch_normalisation(network: Any, feasible: bool) -> None:
    with torch.device("meta"):
        encoder, _ = network.build(10, 32)
    assert (IbdPsc().cannot(encoder, 10) is None) == feasible


def test_refuses_a_network_without_batch_normalisation() -> None:
    _, suspects, clean = small_scene()
    victim = new_victim(suspects, 3, VitTiny(), stream()).eval()
    with pytest.raises(Infeasible, match="has none"):
        IbdPsc().learn(victim, clean, stream())
