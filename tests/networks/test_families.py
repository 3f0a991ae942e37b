"""The networks torchvision:NAME and timm:NAME: the same models, divided into encoder and head."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raybd.networks.convnext_tiny import ConvnextTiny
from raybd.networks.preact_resnet18 import PreactResnet18
from raybd.networks.resnet18 import Resnet18
from raybd.networks.timm import Timm
from raybd.networks.torchvision import Torchvision
from raybd.networks.vit_b_16 import VitB16
from raybd.plan import entries
from raybd.plan.file import parse
from raybd.training.adoption import adopt, plain_weights
from raybd.training.models import new_victim
from raybd.types.errors import UserError
from raybd.types.models import Network, Victim
from tests.cli.in_process import raybd
from tests.some_images import some_images


def _images(side: int) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def _plainly_built(network: Network, classes: int, side: int) -> torch.nn.Module:
    """Return the model that the code for others builds, with other weights than any of ours."""
    import timm
    import torchvision

    plain = network.plain(side)
    assert plain is not None
    names: dict[str, Any] = {"torch": torch, "torchvision": torchvision, "timm": timm}
    torch.manual_seed(5)
    exec("\n".join(plain.code).format(classes=classes), names)
    model: torch.nn.Module = names["model"].eval()
    # Some begin with a head of zeros, under which all logits would be alike.
    torch.nn.init.normal_(model.get_parameter(f"{plain.head}.weight"), std=0.1)
    return model


CASES = [
    (Torchvision(model="resnet18"), 32),
    (Torchvision(model="vit_b_32"), 64),
    (Torchvision(model="mobilenet_v3_small", input_size=48), 32),
    (Torchvision(model="shufflenet_v2_x0_5"), 32),
    (Torchvision(model="swin_t"), 32),
    (Torchvision(model="regnet_x_400mf"), 32),
    (Timm(model="resnet10t"), 32),
    (Timm(model="vit_tiny_patch16_224"), 48),
    (Timm(model="convnext_atto", input_size=64), 32),
    (Resnet18(), 32),
    (Resnet18(stem="imagenet"), 64),
    (ConvnextTiny(), 32),
    (ConvnextTiny(input_size=64), 32),
    (VitB16(input_size=32), 28),
]


@pytest.mark.parametrize(
    ("network", "side"), CASES, ids=[f"{type(n).__name__}-{dict(n)}"[:60] for n, _ in CASES]
)
@torch.no_grad()
def test_it_is_the_librarys_model_in_both_directions(network: Network, side: int) -> None:
    """Ours with their weights, and theirs with ours, give the same logits."""
    theirs = _plainly_built(network, 7, side)
    encoder, head = adopt(network, theirs.state_dict(), side, "theirs")
    expected = theirs(_images(side))
    assert expected.abs().max() > 0
    ours = head(encoder.eval()(_images(side)))
    assert torch.allclose(ours, expected, atol=1e-5)

    victim = Victim(encoder, head, torch.zeros(3), torch.ones(3))
    weights = plain_weights(victim, network.plain(side))
    assert weights.keys() == theirs.state_dict().keys()
    for parameter in theirs.parameters():
        parameter.zero_()
    theirs.load_state_dict(weights)
    assert torch.allclose(theirs(_images(side)), expected, atol=1e-5)


@torch.no_grad()
def test_preact_without_its_last_norm_has_the_names_of_backdoorbench() -> None:
    """Names as in its records: conv1, layerS.B.{bn,conv}, layerS.0.shortcut.0, linear."""
    network = PreactResnet18(final_norm=False)
    torch.manual_seed(0)
    encoder, head = network.build(10, 32)
    named = plain_weights(Victim(encoder, head, torch.zeros(3), torch.ones(3)), network.plain(32))
    conv = {"conv1.weight"} | {
        f"layer{s}.{b}.conv{c}.weight" for s in range(1, 5) for b in (0, 1) for c in (1, 2)
    }
    norm = {
        f"layer{s}.{b}.bn{c}.{name}"
        for s in range(1, 5)
        for b in (0, 1)
        for c in (1, 2)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    shortcuts = {f"layer{s}.0.shortcut.0.weight" for s in (2, 3, 4)}
    assert named.keys() == conv | norm | shortcuts | {"linear.weight", "linear.bias"}
    assert named["layer3.0.shortcut.0.weight"].shape == (256, 128, 1, 1)
    # By hand from the blocks: the mean over the image of the last sum, which nothing rectifies.
    x_BCHW = _images(32)
    h_BCHW = x_BCHW
    for layer in list(encoder.eval())[:9]:  # type: ignore[call-overload]
        h_BCHW = layer(h_BCHW)
    assert h_BCHW.min() < 0
    assert torch.allclose(encoder(x_BCHW), h_BCHW.mean((2, 3)), atol=1e-6)


def test_a_kind_with_a_colon_is_short_for_the_field() -> None:
    short = entries.method("networks", {"kind": "torchvision:resnet34"}, "here")
    long = entries.method(
        "networks", {"kind": "torchvision", "model": "resnet34", "name": short.name}, "here"
    )
    assert short == long
    assert short.name == "torchvision-resnet34"
    assert short.describe()["model"] == "resnet34"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("torchvision:resnet19", r"resnet1\d|near it: .*resnet18"),
        ("timm:vit_tiny_patch15_224", "near it: .*vit_tiny_patch16_224"),
        ("torchvison:resnet18", "unknown network 'torchvison'\nDid you mean 'torchvision'"),
        ("resnet50", "unknown network 'resnet50'\nWrite t(imm|orchvision):resnet50"),
        ("resnet18:large", "nothing can follow a colon"),
        ("timm:", "nothing follows the colon"),
        ("torchvision:squeezenet1_0", "has no classifier of this name"),
        ("timm:deit_tiny_distilled_patch16_224", "not one linear classifier"),
        ("timm:resnet10t.nobody_made_it", "with the tags c3_in1k"),
        ({"kind": "torchvision:resnet18", "model": "resnet34"}, "stands in the kind"),
        ({"kind": "torchvision:resnet18", "pretrained": "IMAGENET1K_V9"}, "IMAGENET1K_V1"),
        ({"kind": "torchvision:resnet18", "normalisation": "weights"}, "no weights to normalise"),
    ],
)
def test_what_no_library_has_is_refused_by_a_plan_with_the_nearest(entry: Any, said: str) -> None:
    raw = {
        "name": "x",
        "datasets": [{"kind": "digits"}],
        "attacks": [{"kind": "badnets"}],
        "trainers": [{"kind": "supervised", "network": entry}],
    }
    with pytest.raises(UserError, match=said) as caught:
        parse(raw)
    assert "trainers[0].network" in caught.value.what


def test_weights_that_are_the_default_are_named_in_the_key() -> None:
    assert Torchvision(model="resnet50", pretrained=True).pretrained == "IMAGENET1K_V2"
    assert Timm(model="resnet10t", pretrained=True).model == "resnet10t.c3_in1k"


def test_images_are_normalised_for_pretrained_weights_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import ShuffleNet_V2_X0_5_Weights, shufflenet_v2_x0_5

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    stored = shufflenet_v2_x0_5()
    # torch checks the beginning of the hash that stands in the name of the file.
    monkeypatch.setattr(
        ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.value, "url", "https://nowhere/s.pth"
    )
    torch.save(stored.state_dict(), cache / "s.pth")
    split = some_images(8, side=32)
    rng = torch.Generator().manual_seed(0)
    network = Torchvision(model="shufflenet_v2_x0_5", pretrained=True, normalisation="weights")
    victim = new_victim(split, 4, network, rng)
    assert victim.mean_C.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert victim.std_C.tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert torch.equal(victim.encoder.conv1[0].weight, stored.conv1[0].weight)  # type: ignore[index,union-attr]
    # A stored victim is built like this, and its moments are stored with it.
    plain = network.without_pretraining()
    assert plain == Torchvision(model="shufflenet_v2_x0_5")
    own = new_victim(split, 4, network.model_copy(update={"normalisation": "data"}), rng)
    assert own.preprocess(split.x_NCHW).mean((0, 2, 3)).tolist() == pytest.approx(
        [0, 0, 0], abs=1e-4
    )


def test_a_transformer_that_cannot_divide_the_images_says_so() -> None:
    with pytest.raises(UserError, match=r"can't be built for 30 pixels\nSet `input_size`"):
        Torchvision(model="vit_b_32").build(4, 30)


def test_show_knows_the_models_of_a_library(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raybd(monkeypatch, "show", "torchvision:resnet50") == 0
    assert "input_size" in capsys.readouterr().out


def test_defenses_ask_a_network_of_a_library_at_plan_time() -> None:
    """regnet computes while it is built, which the meta device can't."""
    cells = parse(
        {
            "name": "x",
            "datasets": [{"kind": "digits"}],
            "attacks": [{"kind": "none"}],
            "trainers": [
                {"kind": "supervised", "network": "torchvision:regnet_x_400mf"},
                {"kind": "supervised", "network": "timm:vit_tiny_patch16_224"},
            ],
            "repairs": [{"kind": "clp"}],
        }
    ).cells()
    reasons = {cell.network.name: cell.infeasible for cell in cells if cell.defense}
    assert reasons["torchvision-regnet_x_400mf"] is None
    assert "clp on timm-vit_tiny" in str(reasons["timm-vit_tiny_patch16_224"])
