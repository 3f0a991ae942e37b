"""DeDe: masks and patches, what the decoder may see, the score, its thresholds, and workers."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from raybd.detectors.dede import DeDe
from raybd.detectors.dede.decoder import (
    MaskedDecoder,
    hidden,
    normalised,
    put_back,
    square_errors,
    take,
    to_images,
    to_patches,
    visible_count,
)
from raybd.detectors.dede.painter import Painter, outside, resized
from raybd.detectors.dede.thinning import least_crowded
from raybd.networks.small_cnn import SmallCnn
from raybd.training.inference import infer
from raybd.training.models import new_victim
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion
from tests.groups import in_group
from tests.shared_victims import SharedVictims, loaded
from tests.small_scene import images, stream

SMALL: dict[str, Any] = {
    "width": 16,
    "heads": 2,
    "encoder_depth": 1,
    "decoder_depth": 1,
    "epochs": 3,
    "batch_size": 16,
}


def decoder(target: Any = "pixels", encoder_depth: int = 1) -> MaskedDecoder:
    """One of sixteen patches, for embeddings of five values."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "side": 16,
        "patch": 4,
        "values": 5,
        "width": 16,
        "heads": 2,
        "decoder_depth": 1,
    }
    return MaskedDecoder(
        torch.full((3,), 0.4),
        torch.full((3,), 0.2),
        encoder_depth=encoder_depth,
        target=target,
        **sizes,
    ).eval()


def tiny(side: int = 16) -> tuple[Victim, Split, Split]:
    """An untrained encoder, suspects and auxiliary images."""
    suspects, clean = (
        Split(images(40, side), torch.arange(40) % 3),
        Split(images(30, side, 1), torch.arange(30) % 3),
    )
    victim = new_victim(suspects, 3, SmallCnn(width=4), stream()).eval()
    victim.head = None
    return victim, suspects, clean


def verdict(order: Tensor | None = None, **fields: Any) -> Suspicion:
    victim, suspects, clean = tiny()
    return DeDe(**{**SMALL, **fields}).score(
        victim, suspects if order is None else suspects.select(order), clean, stream(3)
    )


def random_order(batch: int, tokens: int, seed: int = 0) -> Tensor:
    return torch.rand(batch, tokens, generator=stream(seed)).argsort(1)


@pytest.mark.parametrize(
    ("tokens", "seen"),
    [
        (64, (16, 6, 3, 0)),
        (256, (64, 25, 12, 2)),
        (49, (12, 4, 2, 0)),
        (196, (49, 19, 9, 1)),
        (3136, (784, 313, 156, 31)),
    ],
)
def test_as_many_patches_are_seen_as_in_the_authors_code(
    tokens: int, seen: tuple[int, ...]
) -> None:
    assert tuple(visible_count(tokens, ratio) for ratio in (0.75, 0.9, 0.95, 0.99)) == seen
    assert visible_count(tokens, 1.0) == 0


def test_rounding_hides_no_patch_too_many() -> None:
    assert 20 * (1 - 0.9) < 2
    assert visible_count(20, 0.9) == 2


def test_all_patches_but_the_seen_ones_are_hidden() -> None:
    seen = random_order(5, 16)[:, :6]
    mask = hidden(seen, 16)
    assert mask.sum(1).tolist() == [10] * 5
    assert float(mask.gather(1, seen).sum()) == 0


def test_putting_back_undoes_taking() -> None:
    tokens, order = torch.randn(3, 16, 7, generator=stream()), random_order(3, 16)
    filler = torch.full((3, 16, 7), 9.0)
    assert torch.equal(put_back(take(tokens, order), order, filler), tokens)
    part = put_back(take(tokens, order[:, :4]), order[:, :4], filler)
    mask = hidden(order[:, :4], 16).bool()
    assert torch.equal(part[~mask], tokens[~mask])
    assert (part[mask] == 9).all()


def test_patches_are_in_reading_order_and_fold_back() -> None:
    x = images(2, 12).float()
    patches = to_patches(x, 4)
    assert torch.equal(patches[1, 5].view(3, 4, 4), x[1, :, 4:8, 8:12])
    assert torch.equal(to_images(patches, 4), x)


def test_embeddings_are_normalised_as_asked() -> None:
    z = 3 * torch.randn(20, 8, generator=stream()) + 1
    assert torch.equal(normalised(z, "raw", 2.0), z)
    assert torch.equal(normalised(z, "std", 2.0), z / 2)
    assert torch.allclose(normalised(z, "l2", 2.0).norm(dim=1), torch.ones(20))
    flat = normalised(z, "layernorm", 2.0)
    assert torch.allclose(flat.mean(1), torch.zeros(20), atol=1e-5)
    assert torch.allclose(flat.var(1, correction=0), torch.ones(20), atol=1e-3)


def test_with_nothing_seen_the_image_is_not_looked_at_and_embeddings_are() -> None:
    model, none = decoder(), torch.zeros(4, 0, dtype=torch.int64)
    z = torch.randn(4, 5, generator=stream())
    with torch.no_grad():
        one, other = model(images(4), z, none), model(images(4, seed=9), z, none)
        order = torch.tensor([2, 0, 3, 1])
        moved = model(images(4), z[order], none)
    assert torch.equal(one, other)
    assert torch.allclose(moved, one[order], atol=1e-5)
    assert float((one[0] - one[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("encoder_depth", [0, 1])
def test_only_the_seen_patches_are_looked_at(encoder_depth: int) -> None:
    model, seen, z = (
        decoder(encoder_depth=encoder_depth),
        torch.tensor([[3, 12]]),
        torch.randn(1, 5, generator=stream()),
    )
    x = images(1)
    elsewhere, there = x.clone(), x.clone()
    elsewhere[..., 4:8, :] = 0  # patches 4 to 7
    there[..., :4, 12:] = 0  # patch 3
    with torch.no_grad():
        assert torch.equal(model(elsewhere, z, seen), model(x, z, seen))
        assert not torch.allclose(model(there, z, seen), model(x, z, seen))
        assert torch.allclose(model(x, z, seen.flip(1)), model(x, z, seen), atol=1e-5)


def test_the_score_is_zero_for_the_image_itself_adds_up_and_leaves_out_what_is_seen() -> None:
    wanted, guess = torch.randn(2, 4, 16, 12, generator=stream()).unbind()
    seen = random_order(4, 16)[:, :6]
    none = seen[:, :0]
    assert float(square_errors(wanted, wanted, seen).abs().max()) == 0
    whole = square_errors(guess, wanted, none)
    assert torch.allclose(whole.sum(1), (guess - wanted).square().sum((1, 2)))
    part = square_errors(guess, wanted, seen)
    assert torch.equal(part, whole * hidden(seen, 16))
    assert float(part.gather(1, seen).abs().max()) == 0


@pytest.mark.parametrize("seen", [0, 4])
def test_the_error_map_is_that_of_the_pixels(seen: int) -> None:
    model, x, z, order = (
        decoder(),
        images(3),
        torch.randn(3, 5, generator=stream()),
        random_order(1, 16)[:, :seen],
    )
    with torch.no_grad():
        found = model.errors(x, z, order.expand(3, -1)).sum(1)
        guess = to_images(model(x, z, order.expand(3, -1)), 4)
    pasted = guess.clone()
    for patch in order[0].tolist():
        rows, columns = (
            slice(patch // 4 * 4, patch // 4 * 4 + 4),
            slice(patch % 4 * 4, patch % 4 * 4 + 4),
        )
        pasted[..., rows, columns] = model.preprocess(x)[..., rows, columns]
    assert torch.allclose(found, (model.preprocess(x) - pasted).square().sum((1, 2, 3)), rtol=1e-4)


def test_targets_are_the_pixels_standardised_patches_or_a_blur() -> None:
    x = images(2)
    pixels, patches, blur = (
        decoder(target).wanted(x) for target in ("pixels", "normalised_patches", "low_passed")
    )
    assert torch.allclose(to_images(pixels, 4), (x / 255 - 0.4) / 0.2, atol=1e-5)
    assert torch.allclose(patches.mean(2), torch.zeros(2, 16), atol=1e-4)
    assert torch.allclose(patches.var(2), torch.ones(2, 16), atol=1e-3)
    assert float(blur.var()) < 0.5 * float(pixels.var())
    assert float(blur.mean()) == pytest.approx(float(pixels.mean()), abs=0.05)


def test_patches_that_touch_the_region_do_not_count() -> None:
    kept = outside((5, 8, 11, 13), (16, 16), 16, 4).view(4, 4)
    assert kept[1].tolist() == [1, 1, 0, 0]
    assert float(kept.sum()) == 14
    half = outside(
        (5, 8, 11, 13), (16, 16), 8, 4
    )  # at half the size: rows 2.5 to 4, columns 5.5 to 6.5
    assert half.view(2, 2).tolist() == [[1, 0], [1, 1]]
    assert float(outside(None, (16, 16), 16, 4).sum()) == 16
    with pytest.raises(UserError, match="every patch"):
        outside((0, 16, 0, 16), (16, 16), 16, 4)


def test_what_lies_in_a_skipped_region_does_not_change_the_score() -> None:
    victim, suspects, clean = tiny()
    painter = DeDe(**SMALL, skip=(8, 16, 8, 16)).painter(victim, clean, stream(3))
    white, z = suspects.x_NCHW.clone(), painter.embed(suspects.x_NCHW)
    white[..., 8:, 8:] = 255
    assert torch.equal(painter.maps(white, z), painter.maps(suspects.x_NCHW, z))
    assert verdict(skip=(8, 16, 8, 16)).oracle


def test_the_median_of_a_balanced_pool_makes_tpr_and_fpr_add_up_to_one() -> None:
    found = verdict(threshold="pooled_median")
    flagged = found.score_N > found.threshold_N
    poison = torch.arange(40) % 2 == 0
    assert float(flagged[poison].float().mean() + flagged[~poison].float().mean()) == pytest.approx(
        1
    )
    assert found.oracle


def test_thresholds_come_from_held_out_scores() -> None:
    held = torch.arange(1.0, 100.0)
    pool = torch.zeros(50)
    assert DeDe().cut(pool, held) == 95
    assert DeDe(threshold="mean_multiple").cut(pool, held) == 75
    assert not verdict(threshold="mean_multiple").oracle


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"test_mask_ratio": 0.75, "masks": 3, "measure": "relative", "strangers": 2},
        {"encoder_depth": 0, "embedding": "l2", "target": "normalised_patches"},
        {
            "mask_ratio": 1.0,
            "test_mask_ratio": 1.0,
            "embedding": "layernorm",
            "target": "low_passed",
        },
        {
            "side": 8,
            "patch": 2,
            "embedding": "std",
            "schedule": "cosine",
            "warmup": 0.1,
            "precision": "fp32",
        },
    ],
)
def test_every_choice_scores_in_any_order_and_leaves_the_victim_alone(
    fields: dict[str, Any],
) -> None:
    victim, suspects, clean = tiny()
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    found = DeDe(**{**SMALL, **fields}).score(victim, suspects, clean, stream(3))
    assert found.score_N.shape == (40,)
    assert torch.isfinite(found.score_N).all()
    assert all(isinstance(value, float) for value in found.facts.values())
    order = torch.randperm(40, generator=stream(5))[:11]
    assert torch.allclose(verdict(order, **fields).score_N, found.score_N[order], rtol=1e-4)
    assert all(torch.equal(victim.state_dict()[name], value) for name, value in before.items())
    assert all(
        parameter.grad is None and parameter.requires_grad for parameter in victim.parameters()
    )


def test_labels_play_no_part_and_the_stream_decides() -> None:
    victim, suspects, clean = tiny()
    other = Split(clean.x_NCHW, torch.zeros(30, dtype=torch.int64))
    detector = DeDe(**SMALL)
    one, two = (
        detector.score(victim, suspects, part, stream(3)).score_N for part in (clean, other)
    )
    assert torch.equal(one, two)
    assert not torch.equal(detector.score(victim, suspects, clean, stream(4)).score_N, one)


def test_the_errors_that_are_compared_are_those_of_the_score() -> None:
    """Each image has its own embedding in the first, and that of its neighbour in the second."""
    victim, suspects, clean = tiny()
    detector = DeDe(**{**SMALL, "epochs": 1})
    painter = detector.painter(victim, clean, stream(3))
    x = suspects.x_NCHW[:5]
    own, other, unit = painter.mismatched(x)
    z = painter.embed(x)
    assert torch.allclose(own, painter.maps(x, z).sum(1))
    assert torch.allclose(other, painter.maps(x, z[torch.tensor([4, 0, 1, 2, 3])]).sum(1))
    assert not torch.allclose(own, other)
    assert torch.allclose(painter.score(x), own / unit)

    # A score is a sum of squares: high where the reconstruction fails.
    found = detector.score(victim, suspects, clean, stream(3))
    assert (found.score_N > 0).all()
    assert found.parts_NHW is not None
    assert torch.allclose(found.parts_NHW.sum((1, 2)), found.score_N, rtol=1e-4)


def test_a_relative_score_is_one_where_embeddings_say_nothing() -> None:
    victim, suspects, clean = tiny()
    painter = DeDe(**SMALL, measure="relative").painter(victim, clean, stream(3))
    with torch.no_grad():
        painter.model.condition.weight.zero_()
    assert torch.allclose(painter.score(suspects.x_NCHW), torch.ones(40), atol=1e-5)


def test_a_decoder_that_ignores_the_embedding_is_said_to() -> None:
    found = verdict(mask_ratio=0.1, epochs=1, lr=1e-9)
    assert found.facts["mismatch_auroc"] < 0.6
    assert found.warning is not None and "hardly looks at the embedding" in found.warning


def test_a_decoder_may_work_at_a_smaller_size() -> None:
    victim, suspects, clean = tiny(24)
    painter = DeDe(**SMALL, side=12).painter(victim, clean, stream(3))
    assert painter.maps(suspects.x_NCHW, painter.embed(suspects.x_NCHW)).shape == (40, 9)
    assert torch.equal(painter.embed(suspects.x_NCHW), infer(victim, suspects.x_NCHW, victim.embed))
    flat = torch.full((2, 3, 24, 24), 77, dtype=torch.uint8)
    assert torch.equal(resized(flat, 12), flat[..., ::2, ::2])


def test_thinning_leaves_out_the_most_crowded_images() -> None:
    z_ND = torch.randn(100, 32, generator=stream(0))
    crowded = torch.tensor([3, 17, 18, 40, 41, 42, 60, 77, 78, 79, 98, 99])
    z_ND[crowded] = torch.linspace(1, 5, 12)[:, None] * (
        z_ND[3] + 0.01 * torch.randn(12, 32, generator=stream(1))
    )
    left = least_crowded(z_ND, 0.12)
    assert left.tolist() == sorted(set(range(100)) - set(crowded.tolist())), "whatever their length"
    assert least_crowded(z_ND, 0).tolist() == list(range(100))
    assert len(least_crowded(z_ND[:3], 0.5)) == 1, "fewer than ten neighbours"


def test_a_thinned_decoder_is_trained_on_fewer_images() -> None:
    victim, suspects, clean = tiny()
    whole, thinned = (
        DeDe(**SMALL, thin=thin).score(victim, suspects, clean, stream(3)).score_N
        for thin in (0, 0.3)
    )
    assert not torch.equal(whole, thinned)
    painter = DeDe(**SMALL, thin=0.3).painter(victim, clean, stream(3))
    left = least_crowded(infer(victim, clean.x_NCHW, victim.embed), 0.3)
    again = DeDe(**SMALL).painter(victim, clean.select(left), stream(3))
    assert torch.equal(painter.score(suspects.x_NCHW), again.score(suspects.x_NCHW))


def test_a_mirrored_decoder_is_trained_on_both() -> None:
    victim, suspects, clean = tiny()
    both = Split(torch.cat([clean.x_NCHW, clean.x_NCHW.flip(-1)]), clean.y_N.repeat(2))
    mirrored = DeDe(**SMALL, mirror=True).painter(victim, clean, stream(3)).score(suspects.x_NCHW)
    assert torch.equal(
        mirrored, DeDe(**SMALL).painter(victim, both, stream(3)).score(suspects.x_NCHW)
    )
    assert not torch.equal(
        mirrored, DeDe(**SMALL).painter(victim, clean, stream(3)).score(suspects.x_NCHW)
    )


def test_what_is_learned_once_scores_any_stream() -> None:
    victim, suspects, clean = tiny()
    learned = DeDe(**SMALL, measure="relative").learn(victim, clean, stream(3))
    whole = DeDe(**SMALL, measure="relative").score(victim, suspects, clean, stream(3))
    parts = [learned(suspects.select(rows)) for rows in torch.arange(40).split(13)]
    assert torch.allclose(torch.cat([part.score_N for part in parts]), whole.score_N, rtol=1e-4)
    assert all(torch.equal(part.threshold_N, whole.threshold_N) for part in parts)


@pytest.mark.parametrize("target", ["pixels", "normalised_patches", "low_passed"])
def test_pictures_show_what_is_seen_and_paint_the_rest(target: str) -> None:
    victim, suspects, clean = tiny()
    painter: Painter = DeDe(**SMALL, target=target, test_mask_ratio=0.75).painter(
        victim, clean, stream(3)
    )
    pictures = painter.pictures(suspects.x_NCHW[:3])
    assert {name: (x.shape, x.dtype) for name, x in pictures.items()} == dict.fromkeys(
        ("input", "masked", "reconstruction"), (torch.Size([3, 3, 16, 16]), torch.uint8)
    )
    covered = (
        hidden(painter.masks_MK, 16)
        .view(4, 4)
        .repeat_interleave(4, 0)
        .repeat_interleave(4, 1)
        .bool()
    )
    assert torch.equal(pictures["input"], suspects.x_NCHW[:3])
    assert (pictures["masked"][..., covered] == 128).all()
    for name in ("masked", "reconstruction"):
        assert torch.equal(pictures[name][..., ~covered], suspects.x_NCHW[:3][..., ~covered])


def test_what_cannot_be_trained_is_said() -> None:
    victim, suspects, clean = tiny()
    with pytest.raises(UserError, match="no multiple of patch"):
        DeDe(**SMALL, patch=5).score(victim, suspects, clean, stream())
    with pytest.raises(UserError, match="3 auxiliary images"):
        DeDe(**SMALL).score(victim, suspects, clean.select(torch.arange(3)), stream())
    with pytest.raises(ValidationError, match="no multiple of heads"):
        DeDe(width=100, heads=3)


def test_the_defaults_are_the_authors() -> None:
    model = DeDe().decoder(
        Split(images(4, 32), torch.zeros(4, dtype=torch.int64)), 512, 32, stream()
    )
    blocks = sum(
        p.numel() for part in (model.encoder.blocks, model.blocks) for p in part.parameters()
    )
    assert blocks == pytest.approx(7.1e6, rel=0.01)
    assert model.tokens == 64
    assert DeDe().attention_heads == 3
    assert DeDe.model_validate_json(DeDe(skip=(1, 2, 3, 4)).model_dump_json()) == DeDe(
        skip=(1, 2, 3, 4)
    )


def test_it_resumes_where_it_was() -> None:
    saved: dict[str, bytes] = {}
    victim, suspects, clean = tiny()
    detector = DeDe(**SMALL)
    with running(Runtime(save=saved.__setitem__, every_seconds=0)):
        whole = detector.score(victim, suspects, clean, stream(3)).score_N
    with running(Runtime(load=saved.get)):
        rest = detector.score(victim, suspects, clean, stream(3)).score_N
    assert torch.equal(rest, whole)


def _score_thrice() -> list[Tensor]:
    choices: list[dict[str, Any]] = [
        {},
        {"mask_ratio": 1.0},
        {"encoder_depth": 0, "test_mask_ratio": 0.75},
    ]
    return [verdict(epochs=6, **fields).score_N for fields in choices]


def test_two_workers_score_as_one() -> None:
    alone = _score_thrice()
    for together in in_group(_score_thrice):
        for one, two in zip(alone, together, strict=True):
            assert torch.allclose(two, one, rtol=5e-3)


@pytest.mark.slow
@pytest.mark.data
def test_a_decoder_learns_to_tell_whose_embedding_it_is(
    small_cifar10: dict[str, Any], shared: SharedVictims
) -> None:
    """Measured on two seeds: AUROC .88, ratio 2.5, error .56 and .61 (a mean color: 1), FPR .03."""
    data = loaded({**small_cifar10, "test_limit": 500, "clean": 0.5})
    victim = shared.classifier(small_cifar10, {"kind": "none"}).victim
    victim.head = None
    light: dict[str, Any] = {
        "patch": 8,
        "width": 96,
        "heads": 4,
        "encoder_depth": 1,
        "decoder_depth": 2,
        "embedding": "std",
    }
    detector = DeDe(**light, epochs=8, batch_size=64, lr=2e-3, schedule="cosine", warmup=0.05)
    found = detector.score(victim, data.test, data.clean, stream(1))
    assert found.facts["mismatch_auroc"] > 0.85
    assert found.facts["shuffled_over_true_error"] > 2
    assert found.facts["held_out_error"] < 0.65
    assert float((found.score_N > found.threshold_N).float().mean()) < 0.1
    assert found.warning is None
