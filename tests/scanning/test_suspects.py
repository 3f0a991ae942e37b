"""Suspects and decoys: who stands where, and that nobody is left out or counted twice."""

from dataclasses import replace

import pytest
import torch

from raybd.scanning.suspects import Suspects
from raybd.types.errors import UserError
from tests.scanning.digits_with_patches import SUSPECTS, TRUSTED, Patched


def suspects(fold: int = 0, **fields: object) -> Suspects:
    return Suspects.model_validate(
        {"of": Patched(patched=50), "of_kind": "patched", "fold": fold, **fields}
    )


def rows(x_NCHW: torch.Tensor) -> set[bytes]:
    return {x_CHW.numpy().tobytes() for x_CHW in x_NCHW}


def test_every_image_is_a_suspect_in_its_place_and_decoys_follow() -> None:
    dataset = suspects().load()
    source = Patched(patched=50).source()
    assert torch.equal(
        dataset.train.x_NCHW[:SUSPECTS], source.read("train", torch.arange(SUSPECTS))
    )
    assert torch.equal(dataset.train.y_N[:SUSPECTS], source.train_y_N)
    assert len(dataset.train) == SUSPECTS + TRUSTED // 2
    assert len(dataset.clean) == TRUSTED - TRUSTED // 2


def test_no_decoy_is_trusted_meanwhile_and_each_trusted_image_is_a_decoy_once() -> None:
    folds = [suspects(fold).load() for fold in range(2)]
    decoys = [rows(dataset.train.x_NCHW[SUSPECTS:]) for dataset in folds]
    trusted = [rows(dataset.clean.x_NCHW) for dataset in folds]
    assert not decoys[0] & trusted[0]
    assert not decoys[0] & decoys[1]
    assert decoys[0] == trusted[1]
    assert decoys[1] == trusted[0]


def test_each_class_gives_both_folds_the_same_share() -> None:
    dataset = suspects().load()
    decoys, others = (
        labels.bincount(minlength=10)
        for labels in (dataset.train.y_N[SUSPECTS:], dataset.clean.y_N)
    )
    assert int((decoys - others).abs().max()) <= 1


def test_without_images_that_are_known_to_be_good_a_share_of_the_suspects_is_trusted() -> None:
    own = suspects(of=Patched(with_trusted=False), share=0.2)
    layout = own.layout()
    assert layout.from_suspects
    assert len(layout.trusted_L) == 140
    everyone = torch.cat([layout.suspect_N, layout.trusted_L])
    assert everyone.sort().values.tolist() == list(range(SUSPECTS))
    dataset = own.load()
    assert len(dataset.train) + len(dataset.clean) == SUSPECTS
    assert not rows(dataset.clean.x_NCHW) & rows(dataset.train.x_NCHW)


def test_a_test_part_that_was_held_out_is_suspected_too() -> None:
    class Held(Patched):
        def source(self) -> object:  # type: ignore[override]
            whole = super().source()
            return replace(
                whole,
                train_y_N=whole.train_y_N[:600],
                test_y_N=whole.train_y_N[600:],
                read=lambda pool, rows_M: whole.read(
                    "train", rows_M + (600 if pool == "test" else 0)
                ),
                names=None,
            )

    both = suspects(of=Held(), parts=("train", "test"))
    assert torch.equal(both.load().train.x_NCHW, suspects(of=Patched()).load().train.x_NCHW)
    assert both.names()[599:601] == ["train:599", "test:0"]
    assert torch.equal(
        both.pictures(torch.tensor([650, 3])),
        suspects(of=Patched()).pictures(torch.tensor([650, 3])),
    )


def test_too_few_trusted_images_are_refused() -> None:
    with pytest.raises(UserError, match="7 trusted images"):
        suspects(of=Patched(with_trusted=False), share=0.01).layout()
