"""Probes: their formulas, what they leave alone, and heads that are rebuilt."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.networks.pixels import Pixels
from raybd.networks.small_cnn import SmallCnn
from raybd.trainers.probes.knn_probe import KnnProbe
from raybd.trainers.probes.linear_probe import LinearProbe
from raybd.trainers.probes.mlp_probe import MlpProbe
from raybd.training.inference import infer
from raybd.types.data import Split
from raybd.types.models import Victim
from tests.groups import in_group
from tests.some_images import same_weights, some_images
from tests.trainers.making import fixed_encoder


def separable() -> Split:
    """Four classes, each with another bright quarter."""
    split = some_images(80)
    x_NCHW = split.x_NCHW // 8
    for label in range(4):
        top, left = 8 * (label // 2), 8 * (label % 2)
        x_NCHW[split.y_N == label, :, top : top + 8, left : left + 8] += 200
    return Split(x_NCHW, split.y_N)


def probe(config: Any, start: Victim | None, split: Split, network: Any = None) -> Victim:
    victim: Victim = config.train_from(
        start, split, 4, network or SmallCnn(width=4), torch.Generator().manual_seed(0)
    )
    return victim


PROBES = [
    LinearProbe(),
    KnnProbe(neighbours=5),
    MlpProbe(epochs=60, lr=3e-3, batch_size=16, hidden=(16, 16)),
]


@pytest.mark.parametrize("config", PROBES, ids=lambda config: type(config).__name__)
def test_a_probe_solves_what_is_separable_and_leaves_its_start_alone(config: Any) -> None:
    split, start = separable(), fixed_encoder()
    before = copy.deepcopy(start.state_dict())
    victim = probe(config, start, split)
    assert (infer(victim, split.x_NCHW).argmax(1) == split.y_N).float().mean() == 1
    assert start.head is None
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())
    assert all(
        torch.equal(value, before[f"encoder.{name}"])
        for name, value in victim.encoder.state_dict().items()
    )
    assert torch.equal(victim.mean_C, start.mean_C)
    assert same_weights(victim, probe(config, start, split))


@pytest.mark.parametrize("config", PROBES, ids=lambda config: type(config).__name__)
def test_a_head_is_rebuilt_from_its_tensors(config: Any) -> None:
    split = some_images(50)
    victim = probe(config, fixed_encoder(), split)
    again = Victim(victim.encoder, None, victim.mean_C, victim.std_C)
    config.reshape(again, victim.state_dict())
    again.load_state_dict(victim.state_dict())
    assert torch.equal(infer(again, split.x_NCHW), infer(victim, split.x_NCHW))


def logits_of_an_mlp() -> Tensor:
    """Return the logits of a probe that was trained on batches which do not divide."""
    config = MlpProbe(epochs=3, batch_size=33, lr=1e-2, hidden=(8, 8), precision="fp32")
    victim = probe(config, fixed_encoder(), some_images(50))
    return infer(victim, some_images(50).x_NCHW)


@pytest.mark.usefixtures("two_threads")
def test_two_workers_train_the_mlp_of_one() -> None:
    """Tolerance: 2e-3 relative, from sums in another order."""
    alone = logits_of_an_mlp()
    first, second = in_group(logits_of_an_mlp)
    assert torch.allclose(first, alone, rtol=2e-3, atol=2e-4)
    assert torch.equal(first, second)


def test_a_linear_probe_is_logistic_regression_on_standardised_embeddings() -> None:
    """scikit-learn's, with C = 1 / (penalty * N); tolerance 1e-2 in centred logits of up to 20."""
    from sklearn.linear_model import LogisticRegression

    split, start = some_images(80), fixed_encoder()
    victim = probe(LinearProbe(penalty=1e-2), start, split)
    z_ND = F.normalize(infer(start, split.x_NCHW).double(), dim=1).numpy()
    z_ND = (z_ND - z_ND.mean(0)) / z_ND.std(0)
    reference = LogisticRegression(C=1 / (1e-2 * 80), max_iter=2000, tol=1e-8).fit(
        z_ND, split.y_N.numpy()
    )
    logits, wanted = infer(victim, split.x_NCHW), torch.tensor(reference.decision_function(z_ND))
    assert torch.allclose(
        logits - logits.mean(1, keepdim=True),
        (wanted - wanted.mean(1, keepdim=True)).float(),
        atol=1e-2,
    )


def test_a_linear_probe_knows_classes_that_it_never_sees() -> None:
    split = some_images(80)
    seen = split.select(split.y_N < 2)
    victim = probe(LinearProbe(), fixed_encoder(), seen)
    assert infer(victim, seen.x_NCHW).shape == (40, 4)
    assert (infer(victim, seen.x_NCHW).argmax(1) == seen.y_N).all()


def test_neighbours_vote_by_their_cosines() -> None:
    split, start = some_images(30), fixed_encoder()
    z_ND = F.normalize(infer(start, split.x_NCHW), dim=1)
    victim = probe(KnnProbe(neighbours=7, temperature=0.2), start, split)
    shares = infer(victim, split.x_NCHW).softmax(1)
    for i in range(30):
        ranked = sorted(range(30), key=lambda j: -float(z_ND[i] @ z_ND[j]))[:7]
        votes = torch.zeros(4)
        for j in ranked:
            votes[split.y_N[j]] += math.exp(float(z_ND[i] @ z_ND[j]) / 0.2)
        assert torch.allclose(shares[i], votes / votes.sum(), atol=1e-4)


def test_the_nearest_image_of_the_bank_is_the_image_itself() -> None:
    split = some_images(60)
    labels = torch.randint(4, (60,), generator=torch.Generator().manual_seed(0))
    victim = probe(KnnProbe(neighbours=1), fixed_encoder(), Split(split.x_NCHW, labels))
    assert torch.equal(infer(victim, split.x_NCHW).argmax(1), labels)


def test_a_probe_without_a_start_stands_on_the_networks_own_weights() -> None:
    split = some_images(60)
    victim = probe(KnnProbe(neighbours=1), None, split, Pixels(side=16))
    assert (infer(victim, split.x_NCHW).argmax(1) == split.y_N).all()
