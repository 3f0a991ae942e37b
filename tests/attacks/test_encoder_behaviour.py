"""Attacks on encoders, and the patch on their training data, on real images."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from raybd.attacks.encoder.drupe import Drupe
from raybd.attacks.encoder.drupe.losses import sliced_wasserstein
from raybd.networks.small_cnn import SmallCnn
from raybd.trainers.probes.knn_probe import KnnProbe
from raybd.training.inference import infer
from raybd.types.data import Dataset, Poisoned
from raybd.types.models import Victim
from tests.shared_victims import BADENCODER, SharedVictims, loaded

DRUPE = Drupe(
    epochs=14,
    lr=0.02,
    batch_size=128,
    precision="fp32",
    shadow=1.0,
    adapt_after=5,
    keep_after=8,
    apart=0.1,
    reached=0.98,
    crowded=0.95,
)
REAL: list[tuple[Any, float]] = [(BADENCODER, 0.95), (DRUPE, 0.7)]
"""Attacks with the least attack success. Measured by nearest neighbours on the shared encoder:
success 0.999 and 0.856 (clean encoder: 0.064), accuracy 0.457 and 0.457 (0.453), sliced distance of
triggered to clean embeddings over their deviation 7.6 and 2.2, cosine with the clean one 0.99."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The steps are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- real images ---


def probed(start: Victim, dataset: Dataset, poisoned: Poisoned) -> tuple[float, float]:
    """Accuracy and attack success of the nearest neighbours."""
    probe = KnnProbe().train_from(start, dataset.train, 10, SmallCnn(width=16), torch.Generator())
    x_NCHW, y_N = dataset.test.x_NCHW, dataset.test.y_N
    others = poisoned.with_trigger(x_NCHW[y_N != 0], y_N[y_N != 0], 10)
    hit_N = infer(probe, others).argmax(1) == 0
    return float((infer(probe, x_NCHW).argmax(1) == y_N).float().mean()), float(
        hit_N.float().mean()
    )


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    ("attack", "least"),
    REAL,
    ids=lambda value: "" if isinstance(value, float) else type(value).__name__,
)
def test_an_infected_encoder_hands_its_backdoor_on_to_a_probe_and_keeps_its_accuracy(
    attack: Any, least: float, small_cifar10: dict[str, Any], shared: SharedVictims
) -> None:
    """Bars stand below what was measured, see REAL."""
    dataset = loaded(small_cifar10)
    clean_encoder = shared.clean_encoder(small_cifar10)
    poisoned, infected = shared.infected_encoder(small_cifar10, attack)
    accuracy, success = probed(clean_encoder, dataset, poisoned)
    infected_accuracy, infected_success = probed(infected, dataset, poisoned)
    assert success <= 0.15
    assert infected_success >= least
    assert infected_accuracy >= accuracy - 0.04

    x_NCHW = dataset.test.x_NCHW
    before = infer(clean_encoder, x_NCHW)
    plain = infer(infected, x_NCHW)
    triggered = infer(infected, poisoned.with_trigger(x_NCHW, dataset.test.y_N, 10))
    assert F.cosine_similarity(plain, before).mean() >= 0.95
    apart = (
        sliced_wasserstein(triggered, plain, 50, torch.Generator().manual_seed(0))
        / plain.std(0).mean()
    )
    assert (apart < 3.3) == isinstance(attack, Drupe), (
        "drupe's triggered embeddings are nearer to the clean ones"
    )


@pytest.mark.slow
@pytest.mark.data
def test_a_classifier_learns_the_patch_of_a_class(
    small_cifar10: dict[str, Any], shared: SharedVictims
) -> None:
    """All images of the class wear a patch of 8 pixels. Measured: success 0.65, accuracy 0.52.

    No gate on an encoder: SimCLR on 5,000 images (50 epochs, accuracy 0.43) was not fooled: 0.04,
    0.05 without poison.
    """
    trained = shared.classifier(small_cifar10, {"kind": "ssl_patch", "rate": 0.1, "size": 8})
    test = trained.dataset.test
    others = test.x_NCHW[test.y_N != 0]
    plain = float((infer(trained.victim, others).argmax(1) == 0).float().mean())
    assert trained.attack_success is not None
    assert trained.attack_success >= 0.4
    assert plain <= 0.15
    assert trained.clean_accuracy >= 0.38
