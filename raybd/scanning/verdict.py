"""The verdict on a data set in sentences that are honest about what could have been found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raybd.scanning.judging import FDR, Judged, Power
from raybd.scanning.suspects import Layout

LIKELY = 0.5
"""Share of a planted attack that must be found for it to count as one that would be seen."""
MOST_CLASSES = 5
"""Classes that are named in a verdict."""
UNKNOWN_POWER = (
    "What the scan could have found is not known: nothing can be planted into a model that is "
    "trained already. Without --model, the scan trains one, and plants triggers."
)
KIND_WORDS = {
    "patch": "a small patch",
    "blend": "a blended pattern",
    "sinusoid": "stripes over the image",
    "warp": "a warped image",
}


@dataclass(frozen=True)
class Verdict:
    """What the scan says of the data set."""

    found: bool
    sentence: str
    """The verdict, in one sentence."""
    power: str
    """What the procedure finds of attacks that are known; always said beside the verdict."""


def verdict_of(
    layout: Layout, judged: Judged, power: Sequence[Power], trained: bool = True
) -> Verdict:
    """Return the verdict on a data set; `trained`: whether the scan has trained its victims."""
    flagged = int(judged.flagged_N.sum())
    total = len(judged.flagged_N)
    said = _power_said(power) if trained else UNKNOWN_POWER
    if layout.from_suspects:
        said += (
            " Trusted images were drawn from the suspects, and nothing was planted into them: these"
            " are upper bounds. Poison that is a large share of a class is so among the trusted"
            " images of the class, too: then less or nothing is found, or the clean images of the"
            " class look odd. Only images known to be good (--trusted) change that."
        )
    if not flagged:
        return Verdict(
            False,
            f"Nothing was found in {total:,} images, which does not mean that they are clean.",
            said,
        )
    labels = judged.label_N[judged.flagged_N]
    counts = {layout.class_names[k]: int((labels == k).sum()) for k in labels.unique().tolist()}
    if layout.from_suspects:
        return Verdict(
            True,
            f"{flagged:,} of {total:,} images differ from the rest of their class: "
            f"{_classes(counts)}; either they or the rest may be the poison, since no image is "
            "known to be good.",
            said,
        )
    return Verdict(
        True,
        f"{flagged:,} of {total:,} images look poisoned: {_classes(counts)}; at most "
        f"{FDR:.0%} of them are expected to be false alarms.",
        said,
    )


def _classes(counts: Mapping[str, int]) -> str:
    """Name the labels of the flagged images, the most frequent one first."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    shown = [f"{count:,} labelled {name!r}" for name, count in ordered[:MOST_CLASSES]]
    rest = sum(count for _, count in ordered[MOST_CLASSES:])
    return ", ".join(shown + ([f"{rest:,} of other classes"] if rest else []))


def _power_said(power: Sequence[Power]) -> str:
    if not power:
        return (
            "The budget was too small to plant known triggers: what the scan could have found is "
            "not known. Raise --budget."
        )
    by_kind: dict[str, list[Power]] = {}
    for one in power:
        by_kind.setdefault(one.kind, []).append(one)
    parts = []
    for kind, ones in by_kind.items():
        # A faint trigger first: what is found at least comes before what is found at best.
        ones.sort(key=lambda one: (-one.rate, one.strength != "faint"))
        shares = ", ".join(_share_said(one) for one in ones)
        parts.append(f"{KIND_WORDS.get(kind, kind)}: {shares}")
    return (
        "Of images with a known trigger, planted into a copy at these shares of the data set, the "
        f"same procedure finds this share: {'; '.join(parts)}. How clear an attacker's trigger is, "
        "is not known: expect the lower number. Rarer attacks, and attacks unlike these (such as "
        "those that keep the true labels), may remain unseen."
    )


def _share_said(one: Power) -> str:
    clear = "" if one.strength is None else f" ({one.strength})"
    return f"{one.share:.2f} at {one.rate:.0%}{clear}"
