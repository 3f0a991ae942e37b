"""ASSET: its formulas against slow definitions and hand-computed values, and its guards."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raybd.detectors.asset import Asset
from raybd.detectors.asset.inner_loop import (
    Discriminator,
    cross_fitted,
    features,
    medcouple,
    outlyingness,
)
from raybd.detectors.asset.outer_loop import Loss, Offset, losses, of_part, offset
from raybd.metrics.detection import detection
from raybd.networks.resnet18 import Resnet18
from raybd.networks.small_cnn import SmallCnn
from raybd.training.inference import infer
from raybd.training.models import new_victim
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.models import Victim
from tests.detectors.conftest import Scene
from tests.groups import in_group
from tests.small_scene import stream


def slow_medcouple(values: list[float]) -> float:
    """The definition, pair by pair (Brys, Hubert and Struyf 2004)."""
    x = sorted(values)
    centre = float(np.median(x))
    ties = [i for i, v in enumerate(x) if v == centre]
    kernel = []
    for i, upper in enumerate(x):
        for j, lower in enumerate(x):
            if not lower <= centre <= upper:
                continue
            if upper == lower == centre:
                place = ties.index(i) + ties.index(j) + 1
                kernel.append(float(np.sign(place - len(ties))))
            else:
                kernel.append(((upper - centre) - (centre - lower)) / (upper - lower))
    return float(np.median(kernel))


@pytest.mark.parametrize("n", [5, 6, 41, 200])
@pytest.mark.parametrize("skewed", [False, True])
def test_the_medcouple_is_that_of_the_definition(n: int, skewed: bool) -> None:
    values = np.random.default_rng(n).normal(size=n)
    values = np.exp(values) if skewed else values
    assert medcouple(torch.from_numpy(values)) == pytest.approx(
        slow_medcouple(values.tolist()), abs=1e-12
    )


def test_the_medcouple_handles_values_that_equal_the_median() -> None:
    values = [0.0, 1.0, 2.0, 2.0, 2.0, 3.0, 9.0]
    assert medcouple(torch.tensor(values)) == pytest.approx(slow_medcouple(values))
    assert medcouple(torch.zeros(8)) == 0


def test_symmetric_values_have_tukeys_fences() -> None:
    values = torch.tensor([-3.0, -2, -1, 0, 1, 2, 3, -8, 8])
    assert medcouple(values) == pytest.approx(0)
    first, third = np.quantile(values, [0.25, 0.75])
    fence = third + 1.5 * (third - first)
    assert outlyingness(values)[-1] == pytest.approx(8 / fence)


def test_the_fence_moves_out_on_the_side_of_the_longer_tail() -> None:
    """Hubert and Vandervieren 2008: e^(3 MC) above and e^(-4 MC) below, for a medcouple MC > 0."""
    values = torch.from_numpy(np.exp(np.random.default_rng(0).normal(size=201)))
    skew = medcouple(values)
    assert skew > 0.2
    first, middle, third = np.quantile(values, [0.25, 0.5, 0.75])
    above = third + 1.5 * math.exp(3 * skew) * (third - first)
    below = first - 1.5 * math.exp(-4 * skew) * (third - first)
    found = outlyingness(values)
    top, bottom = int(values.argmax()), int(values.argmin())
    assert float(found[top]) == pytest.approx((values[top] - middle) / (above - middle))
    assert float(found[bottom]) == pytest.approx((middle - values[bottom]) / (middle - below))
    # With the sign of the values, the sides change places.
    assert torch.allclose(outlyingness(-values), found)


def test_a_sigmoid_can_put_the_cut_out_of_reach() -> None:
    # Symmetric around a half, with an interquartile range of .3: the fence is at 1.1.
    s = torch.linspace(0.2, 0.8, 101)
    top = torch.cat([s, torch.tensor([1.0])])
    assert float(outlyingness(top)[-1]) < 1


def test_the_right_side_alone_is_selected_unless_both_are_asked_for() -> None:
    logits = torch.cat([torch.randn(200, generator=stream()), torch.tensor([-30.0, 30.0])])
    one = Asset(select="outlying", sided="one").pick(logits)
    two = Asset(select="outlying", sided="two").pick(logits)
    assert one.nonzero().flatten().tolist() == [201]
    assert two.nonzero().flatten().tolist() == [200, 201]
    assert (logits[one] > logits.median()).all()


def test_the_top_share_is_selected() -> None:
    logits = torch.randn(200, generator=stream())
    chosen = Asset(top=0.05).pick(logits)
    assert int(chosen.sum()) == 10
    assert logits[chosen].min() > logits[~chosen].max()


def test_the_variance_is_unbiased_and_vanishes_for_equal_outputs() -> None:
    out = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 2.0]])
    assert losses("variance", out, torch.zeros(2, dtype=torch.int64)).tolist() == [0, 1]
    flat = losses("cross_entropy", torch.zeros(1, 10), torch.zeros(1, dtype=torch.int64))
    assert float(flat) == pytest.approx(math.log(10))


def test_the_offset_gradient_cancels_where_suspects_are_the_trusted() -> None:
    net = nn.Linear(4, 3)
    x, y = torch.randn(16, 4, generator=stream()), torch.arange(16) % 3
    kinds: tuple[Loss, ...] = ("variance", "cross_entropy")
    for kind in kinds:
        net.zero_grad()
        (losses(kind, net(x), y).mean() - losses(kind, net(x), y).mean()).backward()
        assert all(float(p.grad.abs().max()) < 1e-7 for p in net.parameters() if p.grad is not None)


def changes(how: Offset, chosen: int) -> tuple[float, float]:
    """Return by how much the losses on trusted images and on the first suspects have changed."""
    victim, suspects, clean = tiny()
    before = copy.deepcopy(victim)

    def select(rows_B: Tensor) -> Tensor:
        return rows_B < chosen

    net, _ = offset("x", how, victim, suspects, clean, select, None, stream())

    def mean_loss(kind: Loss, split: Split, of: Victim) -> float:
        return float(losses(kind, infer(of, split.x_NCHW), split.y_N).mean())

    picked = suspects.select(torch.arange(max(chosen, 1)))
    return (
        mean_loss(how.minimise, clean, net) - mean_loss(how.minimise, clean, before),
        mean_loss(how.maximise, picked, net) - mean_loss(how.maximise, picked, before),
    )


@pytest.mark.parametrize("kind", ["variance", "cross_entropy"])
def test_the_loss_of_trusted_images_is_lowered(kind: Loss) -> None:
    how = Offset(kind, kind, 1e-3, 1e-3, epochs=20, batch_size=40, cap=None, clip=None)
    trusted, _ = changes(how, chosen=0)
    assert trusted < -0.01


@pytest.mark.parametrize("kind", ["variance", "cross_entropy"])
def test_the_loss_of_selected_suspects_is_raised(kind: Loss) -> None:
    # The step that lowers is as good as left out.
    how = Offset(kind, kind, 1e-9, 1e-3, epochs=20, batch_size=40, cap=None, clip=None)
    _, picked = changes(how, chosen=60)
    assert picked > 0.1


def test_each_step_has_the_loss_that_it_is_given() -> None:
    """Lowering the cross-entropy leaves outputs with variance; lowering that makes them flat."""
    how = Offset("variance", "cross_entropy", 1e-2, 1e-3, 40, 40, cap=20.0, clip=None)
    victim, suspects, clean = tiny()
    net, raised = offset(
        "x", how, victim, suspects, clean, lambda rows_B: rows_B < 0, None, stream()
    )
    assert raised == 0
    assert float(infer(net, clean.x_NCHW).var(1).mean()) < 0.05


def test_the_raised_loss_stops_at_its_cap() -> None:
    how = Offset("variance", "cross_entropy", 1e-3, 1e-3, 1, 40, cap=2.0, clip=None)
    out_BK = torch.tensor([[0.0, 9.0], [0.0, 1.0]], requires_grad=True)
    raised_B = how.raised(out_BK, torch.tensor([0, 0]))
    assert raised_B.tolist() == pytest.approx([-2.0, -1.3133], abs=1e-3)
    raised_B.sum().backward()
    assert out_BK.grad is not None
    assert out_BK.grad[0].tolist() == [0, 0]
    assert out_BK.grad[1].abs().min() > 0


def test_the_threshold_comes_from_the_held_half_of_the_trusted_images() -> None:
    """Which are neither suspects nor the images that the network is trained on."""
    victim, suspects, clean = tiny()
    # Suspects that carry no class of the trusted images have higher losses than all of these.
    odd = Split(suspects.x_NCHW, torch.full((120,), 2))
    trusted = Split(clean.x_NCHW, torch.arange(40) % 2)
    asset = Asset(
        inputs="images",
        minimise="cross_entropy",
        maximise="cross_entropy",
        concentrate="none",
        lr_min=1e-2,
        epochs=20,
        batch_size=40,
        alpha=0.2,
    )
    verdict = asset.score(victim, odd, trusted, stream())
    assert float((verdict.score_N > verdict.threshold_N).float().mean()) > 0.9


def two_heaps() -> tuple[Tensor, Tensor]:
    """Suspects of which every tenth lies elsewhere, and trusted rows."""
    suspects, trusted = (
        torch.randn(400, 8, generator=stream(1)),
        torch.randn(200, 8, generator=stream(2)),
    )
    suspects[::10] += 3
    return suspects, trusted


HOW = Discriminator(width=32, lr=3e-3, steps=60, alternate=False, batch=128)


@pytest.mark.parametrize("alternate", [False, True])
def test_a_discriminator_tells_what_has_no_counterpart(alternate: bool) -> None:
    suspects, trusted = two_heaps()
    how = Discriminator(width=32, lr=3e-3, steps=60, alternate=alternate, batch=400)
    logit = how.train(suspects, trusted, stream())(suspects)[:, 0].detach()
    assert float(logit[::10].min()) > float(logit.median())


def test_cross_fitting_never_judges_what_it_was_trained_on() -> None:
    # Labels that cannot be learned: trained on its own rows, a wide net tells them apart;
    # cross-fitted, it must not.
    suspects, trusted = (
        torch.randn(300, 32, generator=stream(1)),
        torch.randn(300, 32, generator=stream(2)),
    )
    how = Discriminator(width=256, lr=3e-3, steps=200, alternate=False, batch=300)
    held = torch.randn(300, 32, generator=stream(3))
    logit, held_logit = cross_fitted(how, suspects, trusted, held, 5, stream())
    own = how.train(suspects, trusted, stream())(suspects)[:, 0].detach()
    assert float((own > held_logit.median()).float().mean()) > 0.9
    assert float((logit > held_logit.median()).float().mean()) == pytest.approx(0.5, abs=0.12)


def tiny() -> tuple[Victim, Split, Split]:
    rng = stream()
    x = torch.randint(0, 256, (160, 3, 16, 16), generator=rng, dtype=torch.uint8)
    suspects, clean = Split(x[:120], torch.arange(120) % 3), Split(x[120:], torch.arange(40) % 3)
    return new_victim(suspects, 3, SmallCnn(width=4), rng).eval(), suspects, clean


INPUTS: list[Any] = ["features", "images"]


@pytest.mark.parametrize("inputs", INPUTS)
def test_nothing_selected_is_skipped_counted_and_said(inputs: Any) -> None:
    victim, suspects, clean = tiny()
    verdict = Asset(inputs=inputs, select="outlying", cut=1e9, epochs=1, batch_size=32).score(
        victim, suspects, clean, stream()
    )
    assert verdict.facts["share_of_steps_raised"] == 0
    assert verdict.warning is not None and "did not start" in verdict.warning
    assert torch.isfinite(verdict.score_N).all()


def test_one_selected_row_is_skipped_and_leaves_no_nan() -> None:
    victim, suspects, clean = tiny()

    def first(rows_B: Tensor) -> Tensor:
        return torch.arange(len(rows_B)) == 0

    how = Offset("variance", "variance", 1e-3, 1e-3, epochs=1, batch_size=32, cap=20.0, clip=None)
    net, started = offset("x", how, victim, suspects, clean, first, None, stream())
    assert started == 0
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())


@pytest.mark.parametrize("inputs", INPUTS)
def test_a_resumed_detector_ends_where_the_whole_one_does(inputs: Any) -> None:
    victim, suspects, clean = tiny()
    asset = Asset(inputs=inputs, epochs=3, batch_size=32, steps=5, concentrate="batch", folds=2)
    kept: dict[str, bytes] = {}

    def save(name: str, data: bytes) -> None:
        kept.setdefault(name, data)  # the first checkpoint only: the one after epoch 1

    with running(Runtime(save=save, every_seconds=0)):
        whole = asset.score(victim, suspects, clean, stream())
    with running(Runtime(load=kept.get)):
        resumed = asset.score(victim, suspects, clean, stream())
    assert list(kept) == (["asset"] if inputs == "images" else ["asset_0", "asset_1"])
    assert torch.equal(resumed.score_N, whole.score_N)
    assert resumed.facts == whole.facts


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize(
    "fields",
    [
        {"minimise": "variance", "maximise": "variance", "suspicion": "variance"},
        {"minimise": "cross_entropy", "threshold": "half_gaussian", "outputs": 5},
        {"concentrate": "cross_fit", "threshold": "mixture"},
        {"concentrate": "none", "threshold": "otsu", "clip": 1.0},
        {"layer": "previous", "pooling": "flat", "alternate": True, "threshold": "top_share"},
        {
            "select": "outlying",
            "cut": 1.0,
            "outlying_on": "sigmoid",
            "sided": "two",
            "threshold": "half_gaussian_misplaced",
        },
    ],
)
def test_every_choice_scores_and_leaves_the_victim_alone(
    fields: dict[str, Any], inputs: Any
) -> None:
    victim, suspects, clean = tiny()
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    verdict = Asset(inputs=inputs, **fields, epochs=1, batch_size=32, steps=5).score(
        victim, suspects, clean, stream()
    )
    assert torch.isfinite(verdict.score_N).all() and torch.isfinite(verdict.threshold_N).all()
    assert all(torch.equal(victim.state_dict()[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in victim.parameters())


@pytest.mark.parametrize("start", ["fresh", "victim"])
def test_a_network_on_images_starts_where_it_is_told(start: Any) -> None:
    victim, suspects, clean = tiny()
    # No step changes anything, so that the score is the loss of the first weights.
    still = Asset(inputs="images", start=start, lr_min=1e-12, lr_max=1e-12, epochs=1, steps=5)
    score_N = still.score(victim, suspects, clean, stream()).score_N
    own_N = losses("cross_entropy", infer(victim, suspects.x_NCHW), suspects.y_N)
    assert torch.allclose(score_N, own_N, atol=0.2) == (start == "victim")


def test_the_victims_weights_need_images() -> None:
    with pytest.raises(ValueError, match="set inputs to images"):
        Asset(start="victim")


@pytest.mark.parametrize("inputs", INPUTS)
def test_without_labels_no_label_matters(inputs: Any) -> None:
    victim, suspects, clean = tiny()
    victim.head = None
    free = Asset(
        inputs=inputs,
        minimise="variance",
        maximise="variance",
        suspicion="variance",
        outputs=6,
        epochs=1,
        batch_size=32,
        steps=5,
    )
    other = Split(suspects.x_NCHW, torch.zeros(120, dtype=torch.int64))
    one, two = (free.score(victim, part, clean, stream()).score_N for part in (suspects, other))
    assert torch.equal(one, two)


def test_features_come_from_the_named_map() -> None:
    rng = stream()
    split = Split(
        torch.randint(0, 256, (6, 3, 32, 32), generator=rng, dtype=torch.uint8), torch.arange(6) % 3
    )
    victim = new_victim(split, 3, Resnet18(), rng).eval()
    assert features(victim, split, "last", "mean").shape == (6, 512)
    flat = features(victim, split, "last", "flat")
    assert flat.shape == (6, 512 * 16)
    pooled = flat.view(6, 512, 16).mean(2)
    assert torch.allclose(pooled, features(victim, split, "last", "mean"), atol=1e-4)
    assert features(victim, split, "previous", "mean").shape == (6, 256)
    with pytest.raises(UserError, match="no feature map"):
        features(
            Victim(nn.Flatten(), None, torch.zeros(3), torch.ones(3)), split, "previous", "mean"
        )


def _score_in_group(inputs: Any) -> Tensor:
    victim, suspects, clean = tiny()
    asset = Asset(inputs=inputs, epochs=2, batch_size=32, steps=10)
    return asset.score(victim, suspects, clean, stream()).score_N


@pytest.mark.parametrize("inputs", INPUTS)
def test_two_workers_score_as_one(inputs: Any) -> None:
    alone = _score_in_group(inputs)
    for together in in_group(_score_in_group, inputs):
        assert torch.allclose(together, alone, rtol=0.05, atol=0.05)


def test_it_finds_the_poison_and_not_the_class(scene: Scene) -> None:
    detector = Asset()
    pool = scene.pool(detector)
    verdict = detector.score(scene.victim, pool.suspects, scene.dataset.clean, stream())
    flagged_N = verdict.score_N > verdict.threshold_N
    found = detection(verdict.score_N, flagged_N, pool.role_N, pool.suspects.y_N)
    assert found["auroc"] is not None and found["auroc"] > 0.97
    assert found["auroc_within_class"] is not None and found["auroc_within_class"] > 0.95
    assert found["tpr"] is not None and found["tpr"] > 0.8
    assert found["fpr"] is not None and found["fpr"] < 0.1


def test_the_loss_of_trusted_images_stays_at_that_of_flat_outputs(scene: Scene) -> None:
    # With flat outputs over K classes the cross-entropy of any label is ln K.
    detector = Asset()
    pool = scene.pool(detector)
    verdict = detector.score(scene.victim, pool.suspects, scene.dataset.clean, stream())
    clean_N = verdict.score_N[pool.role_N == 0]
    flat = float(torch.tensor(10.0).log())
    assert float(clean_N.median()) == pytest.approx(flat, abs=0.5)
    # Poison rises far above that.
    assert float(verdict.score_N[pool.role_N == 1].median()) > 2 * flat


def test_few_clean_images_are_flagged_where_there_is_no_poison(scene: Scene) -> None:
    detector = Asset(alpha=0.05)
    clean = scene.dataset.clean
    half = len(clean) // 2
    suspects = clean.select(torch.arange(half))
    trusted = clean.select(torch.arange(half, len(clean)))
    verdict = detector.score(scene.victim, suspects, trusted, stream())
    assert float((verdict.score_N > verdict.threshold_N).float().mean()) < 0.2


def test_a_threshold_that_leaves_part_of_the_target_class_unflagged_is_named(scene: Scene) -> None:
    detector = Asset(threshold="top_share", share=0.01)
    pool = scene.pool(detector)
    verdict = detector.score(scene.victim, pool.suspects, scene.dataset.clean, stream())
    assert verdict.warning is not None and "of class 0 score above" in verdict.warning
    found = Asset().score(scene.victim, pool.suspects, scene.dataset.clean, stream())
    assert found.warning is None


def test_the_stored_embeddings_are_read(scene: Scene) -> None:
    detector = Asset(epochs=1, folds=2)
    pool = scene.pool(detector)
    z_ND = torch.zeros(len(pool.suspects), scene.victim.embed(pool.suspects.x_NCHW[:1]).shape[1])
    stored = replace(pool.suspects, z_ND=z_ND)
    verdict = detector.score(scene.victim, stored, scene.dataset.clean, stream())
    # Equal embeddings give each label one score in each of the two folds.
    for label in pool.suspects.y_N.unique():
        assert len(verdict.score_N[pool.suspects.y_N == label].unique()) == 2


def test_a_part_of_the_pool_is_picked_from_by_its_rows_of_the_whole() -> None:
    picked_N = torch.tensor([False, True, False, False, True, True])
    part_S = torch.tensor([0, 2, 4, 5])
    assert of_part(lambda rows_B: picked_N[rows_B], part_S)(torch.tensor([3, 0, 2])).tolist() == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("pushed", ["up", "down"])
def test_no_network_scores_what_it_was_pushed_on(pushed: str) -> None:
    # Labels that nothing explains: a wide network that was pushed up on all suspects, or down on
    # all trusted images, would have the suspects far above the trusted ones.
    rng = stream(1)
    x = torch.randint(0, 256, (600, 3, 16, 16), generator=rng, dtype=torch.uint8)
    y = torch.randint(0, 3, (600,), generator=rng)
    suspects, clean = Split(x[:300], y[:300]), Split(x[300:], y[300:])
    # Enough features to learn 300 labels by heart.
    victim = new_victim(suspects, 3, SmallCnn(width=32), stream()).eval()
    asset = Asset(
        minimise="cross_entropy",
        concentrate="none",
        width=256,
        lr_min=3e-3 if pushed == "down" else 1e-9,
        lr_max=3e-3 if pushed == "up" else 1e-9,
        epochs=60,
        alpha=0.5,
    )
    verdict = asset.score(victim, suspects, clean, stream())
    above = float((verdict.score_N > verdict.threshold_N).float().mean())
    assert above == pytest.approx(0.5, abs=0.12)
