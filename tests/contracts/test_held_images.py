"""A threshold comes from trusted images that the detector has not learned from.

Each trusted image is changed by itself. Those that change the scores were learned from. All others
together must change the threshold, and the scores not at all.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from raybd.registry import names
from raybd.types.data import Split
from raybd.types.verdicts import Suspicion
from tests.contracts.test_detectors import SMALL, detector_of
from tests.small_scene import small_scene, stream

CASES: list[tuple[str, dict[str, Any]]] = [
    # On features it is cross-fitted, and tests/detectors/test_asset.py has the test.
    ("asset", {**SMALL["asset"], "inputs": "images", "epochs": 1, "steps": 5}),
    ("asset_inner", {**SMALL["asset_inner"], "steps": 5}),
    ("beatrix", {"orders": 2}),
    # Of the images that it learns from, it keeps how many are predicted wrongly.
    ("ibd_psc", {}),
    ("scale_up", {}),
    ("dede", {**SMALL["dede"], "epochs": 1, "held_out": 0.3}),
    ("spectral", {"reference": "trusted"}),
    ("spectre", {"whiten": "trusted"}),
    # `all` puts its three scores on the scale that they have on the same held images: a mean and a
    # deviation for each, nothing of a single image.
    ("strip", {"superimpose": "pixels"}),
    ("strip_encoder", {}),
]
LEARNS_NO_IMAGE = {"ibd_psc"}
"""Detectors of which no trusted image changes a score by itself."""
# The untrained victim has one answer for all images, so that every region fools, no rank counts and
# no corruption changes it: those three have tests of their own, in tests/detectors.
ON_TRAINED_VICTIMS = {"sentinet", "teco", "ted"}
WITHOUT = {
    "abl_isolation",
    "activation_clustering",
    "agpd",
    "confusion_training",
    "flare",
    "scan_em",
}
"""Detectors that take no threshold from trusted images."""
NOT_LEARNED_FROM = {"cognitive_distillation": SMALL["cognitive_distillation"]}
"""Detectors that learn from no trusted image: the threshold is that of all."""
TRUSTED = 8


def scored(kind: str, fields: dict[str, Any], changed: Tensor) -> Suspicion:
    """Return the verdict where these trusted images are other ones."""
    victim, suspects, clean = small_scene()
    trusted = clean.select(torch.arange(TRUSTED))
    x_NCHW = trusted.x_NCHW.clone()
    # Dark, and so unlike the noise of the others.
    x_NCHW[changed] //= 3
    few = suspects.select(torch.arange(40))
    return detector_of(kind, fields).score(victim, few, Split(x_NCHW, trusted.y_N), stream(1))


def test_every_detector_has_a_case() -> None:
    cases = {kind for kind, _ in CASES}
    elsewhere = WITHOUT | ON_TRAINED_VICTIMS | set(NOT_LEARNED_FROM)
    assert cases | elsewhere == set(names("detectors"))


@pytest.mark.parametrize(("kind", "fields"), NOT_LEARNED_FROM.items())
def test_a_detector_that_learns_from_no_trusted_image_scores_the_same_with_any(
    kind: str, fields: dict[str, Any]
) -> None:
    plain, other = (scored(kind, fields, torch.arange(count)) for count in (0, TRUSTED))
    assert torch.equal(other.score_N, plain.score_N)
    assert not torch.equal(other.threshold_N, plain.threshold_N)


@pytest.mark.parametrize(("kind", "fields"), CASES, ids=[kind for kind, _ in CASES])
def test_the_threshold_is_that_of_images_which_were_not_learned_from(
    kind: str, fields: dict[str, Any]
) -> None:
    plain = scored(kind, fields, torch.tensor([], dtype=torch.int64))
    singles = [scored(kind, fields, torch.tensor([row])) for row in range(TRUSTED)]
    held = [row for row, one in enumerate(singles) if torch.equal(one.score_N, plain.score_N)]
    assert len(held) > 0
    assert (len(held) < TRUSTED) == (kind not in LEARNS_NO_IMAGE)

    others = scored(kind, fields, torch.tensor(held))
    assert torch.equal(others.score_N, plain.score_N)
    assert not torch.equal(others.threshold_N, plain.threshold_N)
