"""A scan of a model: what scanners find in it, with trusted images alone."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, cast

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor

from raybd.cells.data import data_key
from raybd.cells.stage import Stage
from raybd.plan import entries
from raybd.plan.graph import Opened, Training, infeasible_defense, no_attack, victim_stage
from raybd.reading.entry import entry_for
from raybd.registry import Method, names
from raybd.results.store import Store
from raybd.scanning.request import absolute
from raybd.stages.scan import Scan
from raybd.types.config import Config
from raybd.types.data import Dataset, Part, Pool, Source, Split
from raybd.types.errors import UserError
from raybd.types.methods import DatasetMethod

FOR_CLASSIFIERS = ("neural_cleanse",)
"""The scanners that are used unless others are named: those that were made for classifiers."""
QUICK: Mapping[str, Mapping[str, Any]] = {
    "neural_cleanse": {"rounds": 80, "images": 200},
    "k_arm": {"rounds": 80, "images": 200},
}
"""Fields of the scanners where they differ from the papers', for minutes instead of hours: the
rounds are BackdoorBench's."""
OTHERWISE = ("decree",)
"""What is used where none of them can be."""

RunStages = Callable[[Sequence[Stage]], None]


class Trusted(DatasetMethod):
    """A data set of which every image is trusted: all parts are the same images."""

    of: SerializeAsAny[DatasetMethod]
    """The data set."""
    of_kind: str
    """Its kind; as in an experiment file."""
    parts: tuple[Pool, ...] = Field(("train", "test"), min_length=1)
    """The parts of it that are trusted."""

    def source(self) -> Source:
        """Open the data set."""
        source = self.of.source()
        # Its description names the data set, but not its version.
        versioned = f"{source.fingerprint} {type(self.of).version}"
        return replace(source, fingerprint=sha256(versioned.encode()).hexdigest())

    def split(self, source: Source) -> dict[Part, tuple[Pool, Tensor]]:
        """Return the rows of the training part as every part."""
        rows_N = torch.arange(len(source.train_y_N))
        return {"train": ("train", rows_N), "clean": ("train", rows_N), "test": ("train", rows_N)}

    def load(self) -> Dataset:
        """Read all images."""
        source = self.of.source()
        labels: dict[Pool, Tensor] = {"train": source.train_y_N, "test": source.test_y_N}
        # A test part that was held out is trusted like the others; there may be none.
        parts = [part for part in self.parts if len(labels[part])]
        images = Split(
            torch.cat([source.read(part, torch.arange(len(labels[part]))) for part in parts]),
            torch.cat([labels[part] for part in parts]),
            source.class_names,
        )
        return Dataset(source.class_names, images, images, images)


class ModelRequest(Config):
    """A model, and images that are known to be good."""

    model: str
    """File or URL of the weights."""
    trusted: str
    """Folder of class folders or Parquet files of trusted images."""
    network: str | None = None
    """Architecture; None: what stands beside the weights, or the default one."""
    normalisation: str | None = None
    """How images were normalised in training, as the trainer `imported` names it."""
    size: int | None = Field(None, ge=8, le=1024)
    """Side that the images are resized to; None: as they are."""
    scanners: tuple[str, ...] = ()
    """Kinds of scanners, each by itself or several in one text, separated by commas; none: those
    for classifiers."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of everything that is drawn."""


@dataclass(frozen=True)
class Found:
    """What one scanner found."""

    scanner: str
    score: float
    threshold: float
    suspicious_class: str | None
    """The class that it suspects most; None if it does not look at classes."""
    class_index: Mapping[str, float]
    """Its index of each class; empty if it does not look at classes."""
    warning: str | None
    pictures: Mapping[str, Tensor]
    """What it recovered, uint8, each n x C x H x W."""

    @property
    def flagged(self) -> bool:
        """Whether its score is above its threshold."""
        return self.score > self.threshold


@dataclass(frozen=True)
class ModelResult:
    """What the scanners say of a model."""

    found: tuple[Found, ...]
    accuracy: float | None
    """On the trusted images."""

    @property
    def verdict(self) -> str:
        """The verdict: which scanner says what, and what scanners do not see."""
        suspects = [one for one in self.found if one.flagged]
        silent = " and ".join(one.scanner for one in self.found if not one.flagged)
        if not suspects:
            return (
                f"{silent} found nothing, which does not mean that the model is clean: triggers "
                "that cover the whole image, or differ from image to image, are often missed."
            )
        parts = [
            f"{one.scanner} {one.score:.2f} above {one.threshold:.2f}"
            + (f", class {one.suspicious_class!r}" if one.suspicious_class is not None else "")
            for one in suspects
        ]
        if silent:
            parts.append(f"{silent} found nothing")
        # One of several scanners is enough: each sees triggers that others miss.
        return (
            f"The model looks backdoored ({'; '.join(parts)}). Small networks may look so without "
            "a backdoor: compare with a model that you trust."
        )

    def facts(self) -> dict[str, Any]:
        """Return the verdict and how it was reached, as JSON."""
        return {
            "verdict": self.verdict,
            "accuracy_on_trusted": self.accuracy,
            "scanners": [
                {
                    "scanner": one.scanner,
                    "score": one.score,
                    "threshold": one.threshold,
                    "flagged": one.flagged,
                    "suspicious_class": one.suspicious_class,
                    "class_index": dict(one.class_index),
                    "warning": one.warning,
                }
                for one in self.found
            ],
        }


def scanned_model(asked: ModelRequest, store: Store, run: RunStages) -> ModelResult:
    """Scan the model of a request. Raises UserError for a model or images that can't be read."""
    entry = entry_for(absolute(asked.trusted))
    kind = str(entry.pop("kind"))
    if asked.size is not None:
        entry["size"] = asked.size
    dataset = cast(
        DatasetMethod, entries.method("datasets", {"kind": kind, **entry}, "scan-model").config
    )
    optional = {"network": asked.network, "normalisation": asked.normalisation}
    trainer = {
        "kind": "imported",
        "weights": absolute(asked.model),
        **{name: value for name, value in optional.items() if value is not None},
    }
    training = entries.training(trainer, "scan-model")
    scanners = _scanners(asked.scanners, training, len(dataset.source().class_names))
    return scanned_victim(training, dataset, kind, scanners, asked.seed, store, run)


def scanned_victim(
    training: Training,
    dataset: DatasetMethod,
    kind: str,
    scanners: Sequence[Method],
    seed: int,
    store: Store,
    run: RunStages,
) -> ModelResult:
    """Scan the victim of a training, with every image of a data set trusted."""
    trusted = Trusted(of=dataset, of_kind=kind)
    method = Method("datasets", "trusted", trusted, "trusted")
    source = trusted.source()
    classes = source.class_names
    opened = Opened(data_key(method, source.fingerprint), source.train_y_N, len(classes))
    victim = victim_stage(lambda _: opened, method, no_attack(), training, seed)
    stages = [
        Scan(method=scanner, seed=seed, dataset=method, data=opened.key, victim=victim)
        for scanner in scanners
    ]
    by_key = {stage.key: stage for last in stages for stage in last.path()}
    run(tuple(by_key.values()))
    accuracy = store.manifest(victim.name, victim.key)["clean_accuracy"]
    return ModelResult(tuple(_found(stage, classes, store) for stage in stages), accuracy)


def _scanners(asked: Sequence[str], training: Training, num_classes: int) -> list[Method]:
    """Return the scanners. Raises UserError if one that was named does not fit the model."""
    known = names("scanners")
    asked = kinds_in(asked)
    for chosen in (asked,) if asked else (FOR_CLASSIFIERS, OTHERWISE):
        methods = [
            entries.method("scanners", {"kind": kind, **QUICK.get(kind, {})}, "--scanner")
            for kind in chosen
            if asked or kind in known
        ]
        reasons = {method: infeasible_defense(method, training, num_classes) for method in methods}
        refused = [reason for reason in reasons.values() if reason is not None]
        if asked and refused:
            raise UserError(f"--scanner: {refused[0]}", "Name another one: raybd list scanners.")
        if fitting := [method for method, reason in reasons.items() if reason is None]:
            return fitting
    raise UserError("no scanner fits this model", "Name one: --scanner.")


def kinds_in(asked: Sequence[str]) -> tuple[str, ...]:
    """Return the kinds that texts name, separated by commas: in their order, each once."""
    named = (kind.strip() for text in asked for kind in text.split(","))
    return tuple(dict.fromkeys(kind for kind in named if kind))


def _found(stage: Scan, classes: Sequence[str], store: Store) -> Found:
    artifact = store.load(stage.name, stage.key)
    facts: Mapping[str, float] = artifact.manifest["facts"]
    index = {}
    for name, value in facts.items():
        # How a verdict on a class is called, see `Suspicion.facts`.
        match = re.fullmatch(r"index\[(\d+)\]", name)
        if match and int(match[1]) < len(classes):
            index[classes[int(match[1])]] = float(value)
    pictures = {
        name.removeprefix("picture."): tensor
        for name, tensor in artifact.tensors.items()
        if name.startswith("picture.")
    }
    return Found(
        scanner=stage.method.name,
        score=float(artifact.manifest["model_score"]),
        threshold=float(artifact.manifest["model_threshold"]),
        suspicious_class=max(index, key=lambda name: index[name]) if index else None,
        class_index=index,
        warning=artifact.manifest["warning"],
        pictures=pictures,
    )
