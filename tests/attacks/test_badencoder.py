"""BadEncoder: its losses by their formulas, and what they do."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from raybd.attacks.encoder.badencoder import BadEncoder
from raybd.attacks.encoder.badencoder.losses import badencoder_losses
from raybd.poisoning.finetuning import cosines
from raybd.training.inference import infer
from tests.attacks.encoders import (
    begun,
    clean_encoder,
    cosine,
    embedded,
    infected_by,
    some_embeddings,
    some_images,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The steps are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_losses_by_their_formulas() -> None:
    z, clean, clean_reference = some_embeddings(torch.Generator().manual_seed(0))
    effect_B, reference, utility_B = badencoder_losses(z, clean, clean_reference)
    for i in range(6):
        assert effect_B[i] == pytest.approx(
            -sum(cosine(z.triggered_BD[i], r) for r in z.reference_RD) / 3, abs=1e-5
        )
        assert utility_B[i] == pytest.approx(-cosine(z.plain_BD[i], clean[i]), abs=1e-5)
    assert reference == pytest.approx(
        -sum(cosine(z.view_RD[i], clean_reference[i]) for i in range(3)) / 3, abs=1e-5
    )


def test_before_the_first_step_nothing_is_lost_in_utility_and_both_sides_of_the_effect_learn() -> (
    None
):
    attack = BadEncoder(size=5)
    start = begun(attack)
    z = embedded(attack, start, torch.arange(8))
    for part in (z.triggered_BD, z.reference_RD):
        part.retain_grad()
    effect_B, _, utility_B = badencoder_losses(z, start.clean_ND[:8], start.clean_RD)
    assert torch.allclose(utility_B, torch.tensor(-1.0), atol=1e-6)
    effect_B.sum().backward()
    assert all(
        part.grad is not None and part.grad.abs().sum() > 0
        for part in (z.triggered_BD, z.reference_RD)
    )


def test_pulls_the_trigger_to_the_reference_and_leaves_the_rest() -> None:
    split, attack = some_images(), BadEncoder(epochs=30, batch_size=20, size=5, lr=0.05)
    start, infected = begun(attack), infected_by(attack, clean_encoder(), split)
    triggered, plain = (
        infer(infected, attack.stamp(split.x_NCHW, {})),
        infer(infected, split.x_NCHW),
    )
    reference = infer(infected, start.reference_RCHW)
    before = cosines(infer(clean_encoder(), attack.stamp(split.x_NCHW, {})), start.clean_RD).mean()
    assert before < 0.95
    assert cosines(triggered, reference).mean() > 0.97
    assert F.cosine_similarity(plain, infer(clean_encoder(), split.x_NCHW)).mean() > 0.95
