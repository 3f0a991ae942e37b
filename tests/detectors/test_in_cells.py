"""Every detector finds badnets on digits, through the stages of a cell, with its own threshold.

The bars hold what was measured (in brackets) with room for the arithmetic of other machines. A
score with the wrong sign, a threshold from the wrong images, or wrong trusted images miss them.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest

from raybd.registry import names
from tests.shared_victims import DIGITS, SharedVictims


@dataclass(frozen=True)
class Case:
    """A detector, and what it reaches at least."""

    kind: str
    auroc: float
    tpr: float
    fpr: float
    """At most."""
    within_class: float | None = None
    """Of detectors of the training set."""
    fields: dict[str, Any] = field(default_factory=dict)
    rate: float = 0.1
    slow: bool = False


DEDE = {
    "width": 32,
    "encoder_depth": 1,
    "decoder_depth": 1,
    "patch": 2,
    "mask_ratio": 1.0,
    "test_mask_ratio": 1.0,
    "epochs": 25,
    "batch_size": 16,
    "lr": 3e-3,
}
"""A decoder for images of 8 x 8 pixels; it sees the embedding alone."""
TECO = {
    "corruptions": ["gaussian_noise", "defocus_blur", "contrast", "pixelate"],
    "draws": 2,
    "fpr": 0.05,
}
"""Few corruptions, for their time."""
CASES = [
    # [.968, .566, .003, .883]
    Case("asset", 0.92, 0.3, 0.05, 0.78, {"inputs": "images", "epochs": 3, "alpha": 0.01}),
    # [1.00, .977, .002, .995]
    Case("asset", 0.97, 0.9, 0.08, 0.95),
    # [.956, .760, .026, .963]
    Case("asset_inner", 0.9, 0.6, 0.08, 0.9),
    # [.979, .969, .024, .985]
    Case("spectral", 0.94, 0.85, 0.06, 0.94, {"reference": "trusted"}),
    # [.899, .891, .000, .982]
    Case(
        "activation_clustering",
        0.8,
        0.75,
        0.03,
        0.9,
        {"reduction": "pca", "suspect": "fewer_clean"},
    ),
    # [.983, 1.00, .000, 1.00]: as published, it needs poison that is the smaller part of its class.
    Case("activation_clustering", 0.93, 0.9, 0.03, 0.95, rate=0.03),
    # [.996, .969, .000]
    Case("scan_em", 0.95, 0.85, 0.03, 0.9),
    # [.994, .868, .014]
    Case("agpd", 0.93, 0.7, 0.06, 0.85),
    # [.988, .992, .001]
    Case("spectre", 0.95, 0.9, 0.03, 0.95, {"whiten": "trusted"}),
    # [.79 on a part] At the default weights the size of a mask hardly counts on 64 pixels.
    Case(
        "cognitive_distillation",
        0.65,
        0.03,
        0.35,
        fields={
            "steps": 40,
            "gamma": 0.3,
            "beta": 1.0,
            "rule": "deviations",
            "precision": "fp32",
        },
        slow=True,
    ),
    # [.994, .969, .000]
    Case("flare", 0.93, 0.85, 0.03, 0.85),
    # [.907, -, -, .413] Digits are learned so quickly that the low mode is no small one, and the
    # target's own digits are in it: the ranking is that of the class.
    Case(
        "abl_isolation",
        0.75,
        0.2,
        0.1,
        None,
        {"isolation_steps": 120, "flags": "share", "share": 0.1, "precision": "fp32"},
    ),
    # [.992, .977, .012, .994]
    Case(
        "confusion_training",
        0.95,
        0.85,
        0.05,
        0.95,
        {
            "shares": (1, 0.2, 0.04),
            "epochs": (6,),
            "lr": 0.05,
            "steps": (200,),
            "augment": "none",
            "precision": "fp32",
        },
        slow=True,
    ),
    # [.996, .978, .058]
    Case("strip", 0.95, 0.85, 0.12, fields={"overlays": 20, "fpr": 0.05}),
    # [.989, .969, .068, .995]
    Case("strip", 0.94, 0.85, 0.12, 0.94, {"overlays": 20, "fpr": 0.05, "pool": "train"}),
    # [.939, .633, .039]
    Case("strip_encoder", 0.88, 0.45, 0.1, fields={"overlays": 20, "fpr": 0.05}),
    # [.966, .417, .017]
    Case("beatrix", 0.92, 0.25, 0.1),
    # [.914, .392, .022]
    Case("scale_up", 0.85, 0.2, 0.08, fields={"fpr": 0.05}),
    # [.759, .000, .000]: all four batch norms of the network are amplified, and some trusted images
    # stay surer than any triggered one.
    Case("ibd_psc", 0.65, -0.01, 0.1, fields={"fpr": 0.05}),
    # [.979, .861, .028]
    Case("ted", 0.93, 0.6, 0.1, fields={"fpr": 0.05}),
    # [.979, .895, .006]
    Case("teco", 0.93, 0.6, 0.06, fields=TECO),
    # [.995, .981, .022]
    Case("sentinet", 0.95, 0.8, 0.06, fields={"images": 8}),
    # [.955, .772, .058]
    Case("dede", 0.85, 0.4, 0.15, fields=DEDE, slow=True),
]


def test_every_detector_has_a_case() -> None:
    assert {case.kind for case in CASES} == set(names("detectors"))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=f"{case.kind}-{case.fields.get('inputs', case.fields.get('pool', ''))}{case.rate}",
            marks=[pytest.mark.slow] if case.slow else [],
        )
        for case in CASES
    ],
)
def test_it_finds_the_poison_with_its_own_threshold(case: Case, shared: SharedVictims) -> None:
    attack = {"kind": "badnets", "rate": case.rate}
    undefended, row = shared.defended(
        DIGITS, attack, "detectors", {"kind": case.kind, **case.fields}
    )
    assert undefended["attack_success"] > 0.7
    assert row["auroc"] > case.auroc
    assert row["tpr"] > case.tpr
    assert row["fpr"] < case.fpr
    if case.within_class is not None:
        assert row["auroc_within_class"] > case.within_class


def test_spectral_as_published_ranks_little_poison_above_its_class(
    shared: SharedVictims,
) -> None:
    """Of a class of which a quarter is poison; it flags a fixed share of each class. [.825]"""
    attack = {"kind": "badnets", "rate": 0.03}
    _, row = shared.defended(DIGITS, attack, "detectors", {"kind": "spectral", "remove": 0.3})
    assert row["auroc_within_class"] > 0.7
    assert row["tpr"] > 0.5
    assert row["n_flagged"] == pytest.approx(0.3 * row["n_scores"], rel=0.03)


def test_removal_takes_the_backdoor_away(shared: SharedVictims) -> None:
    """Trained again without what a detector flags, the victim keeps its task. [.98, .01]"""
    detector = {"kind": "spectral", "reference": "trusted"}
    undefended, row = shared.defended(
        DIGITS, {"kind": "badnets", "rate": 0.1}, "detectors", detector, removal=True
    )
    assert undefended["attack_success"] > 0.9
    assert row["defended_attack_success"] < 0.3
    assert row["defended_clean_accuracy"] > 0.9
