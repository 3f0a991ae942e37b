"""Fine-tuning of encoders: references, shadow images, views, batch normalisation."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.attacks.encoder.badencoder import BadEncoder
from raybd.attacks.encoder.drupe import Drupe
from raybd.poisoning.finetuning import most_typical, view
from raybd.training.inference import infer
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from tests.attacks.encoders import BOTH, begun, clean_encoder, infected_by, some_images
from tests.groups import in_group


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The steps are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_trigger_is_the_authors_square_and_nothing_else_changes() -> None:
    x = some_images(4, 32).x_NCHW
    stamped = BadEncoder().stamp(x, {})
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[21:31, 21:31] = True
    assert stamped.dtype == torch.uint8
    assert (stamped[..., inside] == 255).all()
    assert torch.equal(stamped[..., ~inside], x[..., ~inside])
    large = Drupe(size=50).stamp(torch.zeros((1, 3, 224, 224), dtype=torch.uint8), {})
    assert large[0, 0].nonzero().amin(0).tolist() == [173, 173]
    assert large[0, 0].nonzero().amax(0).tolist() == [222, 222]


@pytest.mark.parametrize("attack", BOTH, ids=lambda attack: type(attack).__name__)
def test_batch_normalisation_keeps_all_that_it_has(attack: Any) -> None:
    before = clean_encoder().state_dict()
    after = infected_by(attack, clean_encoder(), some_images()).state_dict()
    norms = [
        name
        for name, module in clean_encoder().named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    kept = [name for name in before if name.rpartition(".")[0] in norms]
    assert len(kept) == 5 * len(norms) > 0
    assert all(torch.equal(after[name], before[name]) for name in kept)
    moved = [name for name in before if name.startswith("encoder.") and name not in kept]
    assert all(not torch.equal(after[name], before[name]) for name in moved)


def test_references_are_the_most_typical_images_of_the_target_class() -> None:
    z = F.normalize(
        torch.tensor([[1.0, 0.1], [1.0, 0.9], [1.0, -0.3], [0.0, 1.0], [0.1, 1.0]]), dim=1
    )
    y = torch.tensor([0, 0, 0, 1, 1])
    assert most_typical(z, y, 0, 2).tolist() == [2, 0, 1]
    assert most_typical(z, y, 1, 2).tolist() == [3, 4]


def test_shadow_images_keep_their_own_clean_embeddings() -> None:
    start = begun(BadEncoder(shadow=0.3, references=2, size=5))
    assert len(start.shadow) == 18
    assert torch.allclose(
        start.clean_ND, F.normalize(infer(clean_encoder(), start.shadow.x_NCHW), dim=1), atol=1e-5
    )
    assert torch.allclose(
        start.clean_RD, F.normalize(infer(clean_encoder(), start.reference_RCHW), dim=1), atol=1e-5
    )
    assert start.victim.encoder is not clean_encoder().encoder


def test_a_view_of_a_reference_keeps_its_shape_and_is_drawn_anew() -> None:
    x, rng = some_images(1).x_NCHW[0], torch.Generator().manual_seed(0)
    views = torch.stack([view(x, rng) for _ in range(200)])
    assert views.dtype == torch.uint8
    mirrored = torch.tensor([torch.equal(one, x.flip(-1)) for one in views])
    untouched = torch.tensor([torch.equal(one, x) for one in views])
    gray = (views[:, 0] == views[:, 1]).flatten(1).all(1)
    assert 0.08 < (mirrored | untouched).float().mean() < 0.25  # no jitter, no gray: 0.16
    assert mirrored.any() and untouched.any()
    assert 0.12 < gray.float().mean() < 0.3
    assert len(views.unique(dim=0)) > 150
    bright = view(torch.full((1, 8, 8), 90, dtype=torch.uint8), rng)
    assert bright.shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("attack", "why"),
    [
        (BadEncoder(labels={"target": 4}), "there are 4 classes"),
        (Drupe(references=16), "has 15"),
        (BadEncoder(shadow=0.001), "not even one image"),
    ],
)
def test_what_an_attacker_lacks_is_infeasible(attack: Any, why: str) -> None:
    with pytest.raises(Infeasible, match=why):
        attack.choose(some_images().y_N, 4, torch.Generator())


def _infected_by_each(start: Victim) -> list[dict[str, Tensor]]:
    return [infected_by(attack, start, some_images()).state_dict() for attack in BOTH]


def test_two_workers_end_with_the_encoder_of_one() -> None:
    alone, (first, second) = (
        _infected_by_each(clean_encoder()),
        in_group(_infected_by_each, clean_encoder()),
    )
    before = clean_encoder().state_dict()
    for one, here, there in zip(alone, first, second, strict=True):
        for name, value in one.items():
            assert torch.equal(here[name], there[name]), name
            moved = (value - before[name]).float().abs().max()
            assert (here[name] - value).float().abs().max() <= 0.02 * moved + 1e-6, name
