"""A scan of a data set from a request to a result: opens, decides, runs, judges."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

from raybd.cells.stage import Stage
from raybd.plan import entries
from raybd.plan.graph import Training
from raybd.reading.entry import entry_for
from raybd.reading.own import OwnImages
from raybd.registry import Method
from raybd.results.store import Store
from raybd.scanning import budget
from raybd.scanning.judging import Power, judged, power_of
from raybd.scanning.passes import Pass, Scan, default_detectors
from raybd.scanning.request import DEFAULT_NETWORK, ScanRequest, absolute
from raybd.scanning.result import ScanResult
from raybd.scanning.suspects import Suspects
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import DatasetMethod
from raybd.types.models import Network

LARGEST_SIDE = 64
"""Side in pixels that larger images are resized to, unless the user names one: time grows with the
square of the side."""
NOT_TRAINED_ON = (
    "The model was trained on the suspects, and not on the trusted images that they are compared "
    "with: p-values are rough. --trusted-share instead compares images that it was trained on."
)
LOOKED_AT = 32
"""Images whose size is looked at."""

Say = Callable[[str], object]
RunStages = Callable[[Sequence[Stage]], None]


def scanned(asked: ScanRequest, store: Store, run: RunStages, say: Say | None = None) -> ScanResult:
    """Scan a data set; `run` computes stages into the store, here or on a cluster.

    Copies with planted triggers are made as long as the budget lasts. Raises UserError for data
    that can't be read.
    """
    say = say or (lambda text: None)
    suspects, notes = _opened(asked)
    layout = suspects.layout()
    if layout.from_suspects:
        notes.append(
            f"{len(layout.trusted_L):,} of the suspects are trusted, because no other images are: "
            "they may be poisoned like the others. They get scores, too."
        )
    if asked.model is not None:
        scan, decision = _of_a_model(asked, suspects)
        how = "a model that exists"
        if not layout.from_suspects:
            notes.append(NOT_TRAINED_ON)
    else:
        scan, decision = _training(asked, suspects, store)
        how = (
            f"{decision.epochs} epochs, {decision.copies} copies with planted triggers, about "
            f"{max(1, round(decision.seconds / 60))} min"
        )
    say(
        f"{len(layout.label_N):,} suspects of {len(layout.class_names)} classes, "
        f"{len(layout.trusted_L):,} trusted images; {how}"
    )
    if decision.seconds > 60 * asked.budget:
        notes.append(
            f"The scan needs about {decision.seconds / 60:.0f} minutes, more than the budget of "
            f"{asked.budget:g}: it is as short as it can be."
        )
    for note in notes:
        say(note)

    plain = scan.plain()
    run(tuple(plain.stages()))
    verdict = judged(plain, layout, store)
    power: list[Power] = []
    each = _spent(plain, store)
    for copy, (rate, strength) in enumerate(budget.COPIES[: decision.copies]):
        # What a pass took is known now: another copy is made if it fits.
        if copy and each * (copy + 2) > 60 * asked.budget:
            break
        planted = scan.with_triggers(rate, strength)
        run(tuple(planted.stages()))
        power += power_of(planted, judged(planted, layout, store))
    return ScanResult(scan, verdict, tuple(power), decision, _accuracy(plain, store), tuple(notes))


def _opened(asked: ScanRequest) -> tuple[Suspects, list[str]]:
    """Return the suspects, and what should be known of how they are read."""
    trusted = absolute(asked.trusted) if asked.trusted is not None else None
    entry = entry_for(absolute(asked.data), trusted)
    kind = str(entry.pop("kind"))
    notes = []
    size = asked.size
    if size is None:
        size, note = _size(kind, entry)
        notes += [note] if note else []
    if size is not None:
        entry["size"] = size
    config = _dataset(kind, entry)
    source = config.source()
    held_out = not _has_test_part(config)
    # Held-out images were training images a moment ago: they are suspects like the others.
    notes += [note for note in source.notes if not (held_out and "no test part" in note)]
    return (
        Suspects(
            of=config,
            of_kind=kind,
            parts=("train", "test") if held_out else ("train",),
            share=asked.trusted_share,
            seed=asked.seed,
        ),
        notes,
    )


def _dataset(kind: str, fields: dict[str, Any]) -> DatasetMethod:
    found = entries.method("datasets", {"kind": kind, **fields}, "scan")
    return cast(DatasetMethod, found.config)


def _has_test_part(config: DatasetMethod) -> bool:
    """Whether the data set brings a test part of its own, and none was held out for it."""
    return not isinstance(config, OwnImages) or "test" in config.collections()


def _size(kind: str, entry: dict[str, Any]) -> tuple[int | None, str | None]:
    """Return the side to resize to, if images differ in size or are large, and a sentence."""
    try:
        source = _dataset(kind, entry).source()
        rows = torch.arange(len(source.train_y_N))[:LOOKED_AT]
        height, width = source.read("train", rows).shape[-2:]
    except UserError as error:
        if "unequal size" not in error.what:
            raise
        return LARGEST_SIDE, f"Images differ in size, and are resized to {LARGEST_SIDE} pixels."
    if max(height, width) <= LARGEST_SIDE:
        return None, None
    return LARGEST_SIDE, (
        f"Images of {width} x {height} pixels are resized to {LARGEST_SIDE} (--size): a trigger of "
        "a few pixels may get lost."
    )


def _of_a_model(asked: ScanRequest, suspects: Suspects) -> tuple[Scan, budget.Decision]:
    """Return the scan with a model that somebody has trained: nothing can be planted into it."""
    entry = {
        "kind": "imported",
        "weights": absolute(str(asked.model)),
        "network": asked.network,
        "normalisation": asked.normalisation,
    }
    given = {name: value for name, value in entry.items() if value is not None}
    training = entries.training(given, "--model")
    return (
        Scan(suspects, suspects.layout(), training, default_detectors()),
        budget.Decision(0, 0, 0.0),
    )


def _training(asked: ScanRequest, suspects: Suspects, store: Store) -> tuple[Scan, budget.Decision]:
    """Return the scan with victims that are trained as long as the budget allows for."""
    if asked.normalisation is not None:
        raise UserError("--normalisation: it says how a --model was trained", "Remove it.")
    network = entries.method("networks", {"kind": asked.network or DEFAULT_NETWORK}, "--network")
    # The key of a scan does not depend on the length of its trainings.
    first = _scan(suspects, network, budget.Decision(budget.USUAL_EPOCHS, 0, 0.0))
    decision = budget.remembered(store, first.key, asked.budget)
    if decision is None:
        decision = _decision(suspects, network, asked.budget)
        budget.remember(store, first.key, asked.budget, decision)
    return _scan(suspects, network, decision), decision


def _scan(suspects: Suspects, network: Method, decision: budget.Decision) -> Scan:
    trainer = Method("trainers", "supervised", decision.trainer(), "supervised")
    return Scan(suspects, suspects.layout(), Training(trainer, network), default_detectors())


def _decision(suspects: Suspects, network: Method, minutes: float) -> budget.Decision:
    layout = suspects.layout()
    rows = layout.suspect_N[: budget.MEASURED_IMAGES]
    few = Split(suspects.pictures(rows), layout.label_N[: len(rows)])
    per_image = budget.seconds_per_image(
        cast(Network, network.config), few, len(layout.class_names)
    )
    images = len(layout.label_N) + len(layout.trusted_L) // suspects.folds
    return budget.decide(images, suspects.folds, per_image, minutes)


def _spent(one: Pass, store: Store) -> float:
    """Return the seconds that the stages of a pass took, whenever that was."""
    manifests = (store.manifest(stage.name, stage.key) for stage in one.stages())
    return sum(float(manifest["seconds"]) for manifest in manifests)


def _accuracy(one: Pass, store: Store) -> float | None:
    """Return the mean accuracy of the victims on the images that no victim was trained on."""
    manifests = [
        store.manifest(scores[0].victim.name, scores[0].victim.key) for scores in one.scores
    ]
    found = [manifest["clean_accuracy"] for manifest in manifests]
    return None if None in found else sum(found) / len(found)
