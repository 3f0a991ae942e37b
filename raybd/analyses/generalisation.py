"""Generalisation: how far a trigger may be weakened, moved, cut or corrupted and still work.

BackdoorBench, Wu et al. 2022, arXiv 2206.12654, its analysis of trigger generalisation.
Differs: the same changes for every attack, by the difference that its trigger makes; a field for
the strength of the trigger is also changed, with the rest of the attack as it is.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field, ValidationError
from torch import Generator, Tensor

from raybd.analyses._trigger_changes import (
    brightened,
    compressed,
    cropped,
    noisy,
    rotated,
    scaled,
    shifted,
    softened,
)
from raybd.metrics.classification import predictions, share
from raybd.training.inference import infer
from raybd.types.data import stamped
from raybd.types.errors import UserError
from raybd.types.methods import Analysis, AnalysisInput, Attack, Pairs

if TYPE_CHECKING:
    import pyarrow as pa

STRENGTHS = ("alpha", "test_alpha", "size", "magnitude", "strength", "amplitude", "epsilon", "d")
"""Names of the fields that say how strong or large a trigger is."""
FEW = 16
"""Images that show whether a field changes anything."""
HALF = 0.5
"""The success at which a trigger works."""
POSES = ("shift", "crop", "rotate")
"""Changes of where the trigger is and how much of it: poses that no training has shown."""
Factors = tuple[float, ...]
Row = dict[str, Any]


@dataclass(frozen=True)
class _Tried:
    """A change of the images with the trigger."""

    change: str
    amount: float
    worn_MCHW: Callable[[], Tensor]
    """Computes the images, when it is their turn."""
    direction: str = ""


class Generalisation(Analysis):
    """Attack success on images whose trigger was changed in many ways."""

    needs_trigger: ClassVar[bool] = True
    images: int | None = Field(None, ge=1)
    """Largest number of test images, the first ones that count; null: all, as the cell counts."""
    scales: Factors = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2)
    """Factors of the difference that the trigger makes."""
    shifts: tuple[int, ...] = (0, 1, 2, 4, 8)
    """Pixels by which the difference is moved, in each of four directions."""
    crops: Factors = (0.25, 0.5, 0.75)
    """Shares of its positions that are kept, those nearest to its middle."""
    rotations: Factors = (5, 15, 45)
    """Degrees by which it is turned around its middle."""
    jpeg: tuple[int, ...] = (90, 70, 50, 30)
    """Qualities of JPEG in which the images are stored."""
    blur: Factors = (0.5, 1, 1.5, 2)
    """Deviations of a Gaussian blur, in pixels."""
    noise: Factors = (4, 8, 16)
    """Deviations of added noise, in grey levels."""
    brightness: Factors = (0.8, 1.2)
    """Factors of all pixels."""
    strengths: Factors = (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2)
    """Factors of each field of the attack that says how strong its trigger is."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return change, direction, amount, and the shares success and robust of n images.

        success counts the attacker's label, robust the true one. Of `scale`, and of each field, a50
        is the smallest amount tried with a success of half, and area the mean success between the
        smallest and the largest. unseen_success is the mean over shifts, crops and rotations. They
        are the same in all rows that they are about. Raises UserError if no image counts.
        """
        import pyarrow as pa

        pairs = given.pairs
        if not len(pairs):
            raise UserError(
                "generalisation: no test image counts", "Take more test images.", exit_code=1
            )
        most = slice(None, self.images)
        pairs = Pairs(
            pairs.x_MCHW[most], pairs.worn_MCHW[most], pairs.y_M[most], pairs.wanted_M[most]
        )
        rows = []
        for tried in self._changes(pairs, given, rng):
            found_M = predictions(infer(given.victim, tried.worn_MCHW()))
            rows.append(
                {
                    "change": tried.change,
                    "direction": tried.direction,
                    "amount": float(tried.amount),
                    "success": share(found_M == pairs.wanted_M),
                    "robust": share(found_M == pairs.y_M),
                    "n": len(pairs),
                }
            )
        return pa.Table.from_pylist(_summarised(rows), schema=_schema())

    def _changes(self, pairs: Pairs, given: AnalysisInput, rng: Generator) -> Iterator[_Tried]:
        x_MCHW, worn_MCHW = pairs.x_MCHW, pairs.worn_MCHW
        for factor in self.scales:
            yield _Tried("scale", factor, partial(scaled, x_MCHW, worn_MCHW, factor))
        directions = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
        for pixels in self.shifts:
            for name, (down, right) in directions.items():
                moved = partial(shifted, x_MCHW, worn_MCHW, down * pixels, right * pixels)
                yield _Tried("shift", pixels, moved, name)
        for kept in self.crops:
            yield _Tried("crop", kept, partial(cropped, x_MCHW, worn_MCHW, kept))
        for degrees in self.rotations:
            yield _Tried("rotate", degrees, partial(rotated, x_MCHW, worn_MCHW, degrees))
        for quality in self.jpeg:
            yield _Tried("jpeg", quality, partial(compressed, worn_MCHW, quality))
        for deviation in self.blur:
            yield _Tried("blur", deviation, partial(softened, worn_MCHW, deviation))
        for deviation in self.noise:
            yield _Tried("noise", deviation, partial(noisy, worn_MCHW, deviation, rng))
        for factor in self.brightness:
            yield _Tried("brightness", factor, partial(brightened, worn_MCHW, factor))
        if given.attack is not None:
            yield from self._fields(pairs, given.attack, given.state)

    def _fields(
        self, pairs: Pairs, attack: Attack, state: Mapping[str, Tensor]
    ) -> Iterator[_Tried]:
        """The trigger with another strength, and all else of the attack as it is."""
        height, width = pairs.x_MCHW.shape[-2:]
        for name, value in dict(attack).items():
            if name not in STRENGTHS or not isinstance(value, int | float):
                continue
            tried: dict[float, Attack] = {}
            for factor in self.strengths:
                amount = max(1, round(factor * value)) if isinstance(value, int) else factor * value
                changed = _with(attack, name, amount)
                if changed is not None and not changed.does_not_fit(height, width):
                    tried.setdefault(amount, changed)
            worn = {
                amount: partial(stamped, changed.stamp_toward, state=state)
                for amount, changed in tried.items()
            }
            few = [stamp(pairs.x_MCHW[:FEW], pairs.wanted_M[:FEW]) for stamp in worn.values()]
            # A field may act on the training set alone, or through the state.
            if all(torch.equal(one, few[0]) for one in few):
                continue
            for amount, stamp in worn.items():
                images = partial(stamp, pairs.x_MCHW, pairs.wanted_M)
                yield _Tried(f"field {name}", amount, images)


def _with(attack: Attack, name: str, value: float) -> Attack | None:
    """Return an attack with another value of a field; None if it can't have it."""
    try:
        return type(attack).model_validate({**dict(attack), name: value})
    except ValidationError:
        return None


def _summarised(rows: list[Row]) -> list[Row]:
    """Return rows with the numbers of the change, or of the victim, that they are about."""
    poses = [row["success"] for row in rows if row["change"] in POSES and row["amount"] != 0]
    unseen = sum(poses) / len(poses) if poses else None
    found = []
    for row in rows:
        curve = sorted(
            (other["amount"], other["success"])
            for other in rows
            if other["change"] == row["change"]
        )
        grows = row["change"] == "scale" or row["change"].startswith("field ")
        numbers = {"area": _area(curve), "a50": _half(curve)} if grows else {}
        found.append({**row, **numbers, "unseen_success": unseen})
    return found


def _half(curve: list[tuple[float, float]]) -> float | None:
    """Return the smallest amount with a success of half; None: there is none."""
    return next((amount for amount, success in curve if success >= HALF), None)


def _area(curve: list[tuple[float, float]]) -> float | None:
    """Return the mean height of the line through the points; None for a single one."""
    wide = curve[-1][0] - curve[0][0]
    if not wide:
        return None
    steps = pairwise(curve)
    return sum((b - a) * (low + high) / 2 for (a, low), (b, high) in steps) / wide


def _schema() -> "pa.Schema":
    import pyarrow as pa

    values = ("amount", "success", "robust", "area", "a50", "unseen_success")
    return pa.schema(
        [
            ("change", pa.string()),
            ("direction", pa.string()),
            *((name, pa.float32() if name != "amount" else pa.float64()) for name in values),
            ("n", pa.int32()),
        ]
    )
