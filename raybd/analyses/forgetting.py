"""Forgetting: which training images a victim learns early and keeps, and what a defense undoes.

Toneva et al. 2019, arXiv 1812.05159, section 3 (forgetting events); Pleiss et al. 2020, arXiv
2001.10528, section 3 (area under the margin); McNemar 1947, Psychometrika 12.
Differs: each statistic is judged by how well it tells poison; after a defense, single predictions
are compared with those of the undefended victim.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Generator, Tensor

from raybd.metrics.statistics.delong import auroc_interval
from raybd.metrics.statistics.pairs import mcnemar
from raybd.metrics.statistics.shares import wilson
from raybd.types.data import CLEAN, POISON, SAMPLE_ROLES
from raybd.types.kept import Stored
from raybd.types.methods import Analysis, AnalysisInput

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Row = dict[str, Any]
NOBODY = -1
"""The label of an input that was refused."""


class Forgetting(Analysis):
    """When each training image is learned and forgotten, and what a defense changes."""

    reads: ClassVar[frozenset[Stored]] = frozenset({"predictions", "trajectories"})
    compares_before: ClassVar[bool] = True

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return rows of four kinds; columns that are of other kinds are null.

        image: learned_epoch (epochs that passed before it had its label for the first time; null:
        never), forgets, aum (mean margin), final_loss and role of a training image; only if
        trajectories were kept. auroc: how well a statistic tells poison from clean images
        (learned_early, rarely_forgotten, large_margin, small_loss). change: after a defense, the
        share of triggered test images that the attacker had won and that are `recovered` or still
        `remembered`, and of clean ones that were right and are `lost`; and what becomes of
        clean_accuracy and attack_success, with McNemar's p. moved: counts by true label, and by the
        label before and after.
        """
        import pyarrow as pa

        rows: list[Row] = []
        if given.trajectories:
            found = statistics(
                given.trajectories["correct_NE"],
                given.trajectories["margin_NE"].float(),
                given.trajectories["loss_NE"].float(),
            )
            epochs = given.trajectories["loss_NE"].shape[1]
            rows += _images(found, given.role_N, epochs)
            rows += _aurocs(found, given.role_N)
        if given.before is not None and given.predictions is not None:
            rows += _changes(given.before.to_pandas(), given.predictions.to_pandas())
        return pa.Table.from_pylist(rows, schema=_schema())


def statistics(correct_NE: Tensor, margin_NE: Tensor, loss_NE: Tensor) -> dict[str, Tensor]:
    """Return the statistics of each image, from what it was after each of E epochs.

    An image that was never right has the learned epoch E.
    """
    ever_N = correct_NE.any(1)
    first_N = correct_NE.int().argmax(1)
    return {
        "learned_epoch": torch.where(ever_N, first_N, correct_NE.shape[1]),
        "forgets": (correct_NE[:, :-1] & ~correct_NE[:, 1:]).sum(1),
        "aum": margin_NE.mean(1),
        "final_loss": loss_NE[:, -1],
    }


def _images(found: dict[str, Tensor], role_N: Tensor, epochs: int) -> list[Row]:
    columns: dict[str, list[Any]] = {name: values.tolist() for name, values in found.items()}
    columns["learned_epoch"] = [
        epoch if epoch < epochs else None for epoch in columns["learned_epoch"]
    ]
    rows = []
    for index, role in enumerate(role_N.tolist()):
        # What was planted to measure a detector is no sample of the attack.
        if role >= len(SAMPLE_ROLES):
            continue
        values = {name: column[index] for name, column in columns.items()}
        rows.append({"kind": "image", "index": index, "role": SAMPLE_ROLES[role], **values})
    return rows


def _aurocs(found: dict[str, Tensor], role_N: Tensor) -> list[Row]:
    """How well each statistic tells poison: what is learned early and kept is suspicious."""
    poison_N, clean_N = role_N == POISON, role_N == CLEAN
    if not poison_N.any() or not clean_N.any():
        return []
    suspicion = {
        "learned_early": -found["learned_epoch"],
        "rarely_forgotten": -found["forgets"],
        "large_margin": found["aum"],
        "small_loss": -found["final_loss"],
    }
    rows = []
    for name, score_N in suspicion.items():
        score = score_N.double().numpy()
        told = auroc_interval(score[poison_N.numpy()], score[clean_N.numpy()])
        ends = {"low": told.low, "high": told.high, "n": told.n}
        rows.append({"kind": "auroc", "statistic": name, "value": told.value, **ends})
    return rows


def _changes(before: "pd.DataFrame", after: "pd.DataFrame") -> list[Row]:
    """What single predictions became; both frames have the same images in the same order."""
    frame = before[["pool", "index", "true", "wanted"]].copy()
    if not frame["index"].equals(after["index"]):
        raise ValueError("predictions of other images cannot be compared in pairs")
    # A refused input is neither right nor won by the attacker.
    frame["before"] = before["pred"].astype("float").fillna(NOBODY).astype(int)
    frame["after"] = after["pred"].astype("float").fillna(NOBODY).astype(int)
    frame["true"] = frame["true"].astype(int)
    clean = frame[frame["pool"] == "test_clean"]
    worn = frame[frame["pool"] == "test_triggered"]

    rows = []
    right = clean[clean["before"] == clean["true"]]
    won = worn[worn["before"] == worn["wanted"]]
    rows += _share("test_clean", "lost", right["after"] != right["true"])
    rows += _share("test_triggered", "recovered", won["after"] == won["true"])
    rows += _share("test_triggered", "remembered", won["after"] == won["wanted"])
    for pool, name, part, label in (
        ("test_clean", "clean_accuracy", clean, "true"),
        ("test_triggered", "attack_success", worn, "wanted"),
    ):
        if not len(part):
            continue
        hit_before, hit_after = part["before"] == part[label], part["after"] == part[label]
        p = mcnemar(int((hit_before & ~hit_after).sum()), int((~hit_before & hit_after).sum()))
        value = float(hit_after.mean() - hit_before.mean())
        about = {"pool": pool, "statistic": name, "value": value, "n": len(part), "p": p}
        rows.append({"kind": "change", **about})

    counted = frame.groupby(["pool", "true", "before", "after"], observed=True).size()
    for row in counted.reset_index(name="n").to_dict("records"):
        rows.append({"kind": "moved", **{str(name): value for name, value in row.items()}})
    return rows


def _share(pool: str, name: str, hit: "pd.Series[bool]") -> list[Row]:
    if not len(hit):
        return []
    found = wilson(int(hit.sum()), len(hit))
    ends = {"low": found.low, "high": found.high, "n": found.n}
    return [{"kind": "change", "pool": pool, "statistic": name, "value": found.value, **ends}]


def _schema() -> "pa.Schema":
    import pyarrow as pa

    words = ("kind", "role", "pool", "statistic")
    numbers = ("index", "learned_epoch", "forgets", "true", "before", "after", "n")
    values = ("aum", "final_loss", "value", "low", "high", "p")
    return pa.schema(
        [
            *((name, pa.string()) for name in words),
            *((name, pa.int32()) for name in numbers),
            *((name, pa.float64()) for name in values),
        ]
    )
