"""What a scan of a data set hands out: a row for each image, the verdict, and files."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from raybd.scanning.budget import Decision
from raybd.scanning.judging import FDR, NAMED_LEVEL, Judged, Power
from raybd.scanning.passes import Scan
from raybd.scanning.verdict import Verdict, verdict_of
from raybd.types.errors import UserError
from raybd.types.methods import Trainer

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("path", "label", "suspicion", "p_value", "rank", "flagged", "detectors", "role")
"""The columns of a row: where the image is stored, the name of its class, its suspicion (higher
= more), its p-value against trusted images, its place from 1, whether it is flagged, and the
detectors that single it out by themselves. The role is always `unknown`."""


@dataclass(frozen=True)
class ScanResult:
    """What was found in a data set."""

    scan: Scan
    judged: Judged
    power: tuple[Power, ...]
    decision: Decision
    accuracy: float | None
    """Of the trained victim, on trusted images that it was not trained on; mean over the folds."""
    notes: tuple[str, ...] = ()
    """What a user should know of how it was done."""

    @property
    def verdict(self) -> Verdict:
        """The verdict in sentences."""
        trained = cast(Trainer, self.scan.training.trainer.config).trains
        return verdict_of(self.scan.layout, self.judged, self.power, trained)

    @cached_property
    def names(self) -> list[str]:
        """Where each image of the data set is stored."""
        return self.scan.suspects.names()

    def frame(self) -> "pd.DataFrame":
        """Return a row for each image of the data set, the most suspicious one first."""
        import pandas as pd

        layout, judged = self.scan.layout, self.judged
        names = np.array(self.names, dtype=object)
        classes = np.array(layout.class_names, dtype=object)
        kinds = [detector.name for detector in self.scan.detectors]
        alone_DN = (judged.detector_p_DN <= NAMED_LEVEL).numpy()
        found = pd.DataFrame(
            {
                "path": names[judged.row_N.numpy()],
                "label": classes[judged.label_N.numpy()],
                "suspicion": judged.suspicion_N.numpy(),
                "p_value": judged.p_N.numpy(),
                "rank": judged.rank_N().numpy(),
                "flagged": judged.flagged_N.numpy(),
                "detectors": [
                    " ".join(kind for kind, is_named in zip(kinds, column, strict=True) if is_named)
                    for column in alone_DN.T
                ],
                "role": "unknown",
            },
            columns=list(COLUMNS),
        )
        found = found.sort_values("rank", ignore_index=True)
        found.attrs.update(self.facts())
        return found

    def facts(self) -> dict[str, Any]:
        """Return the verdict and how it was reached, as JSON."""
        layout, judged, verdict = self.scan.layout, self.judged, self.verdict
        names = (*layout.class_names, "all classes")
        return {
            "verdict": verdict.sentence,
            "power": verdict.power,
            "images": len(judged.label_N),
            "flagged": int(judged.flagged_N.sum()),
            "classes": {
                names[label]: {
                    "flagged": cut.flagged,
                    "p_value_at_most": cut.level,
                    "false_alarms_expected": cut.false_share,
                    "by_chance": cut.chance,
                }
                for label, cut in judged.cuts.items()
            },
            "false_discovery_rate": FDR,
            "planted": [{**asdict(one), "share": one.share} for one in self.power],
            "trusted": len(layout.trusted_L),
            "trusted_from_suspects": layout.from_suspects,
            "accuracy_on_trusted": self.accuracy,
            "epochs": self.decision.epochs,
            "notes": list(self.notes),
        }


def write_files(result: ScanResult, out: Path) -> "pd.DataFrame":
    """Write suspects.csv, suspects.parquet and scan.json into a folder; return the rows."""
    frame = result.frame()
    facts = json.dumps(frame.attrs, indent=1)
    # pandas would write the attributes into the file, too, in a form of its own.
    rows = frame.copy()
    rows.attrs = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        rows.to_csv(out / "suspects.csv", index=False)
        rows.to_parquet(out / "suspects.parquet", index=False)
        (out / "scan.json").write_text(facts, encoding="utf-8")
    except OSError as error:
        raise _unwritable(out, error) from error
    return frame


def write_clean(result: ScanResult, root: Path | None, target: Path) -> str:
    """Write the data set without what is flagged; return what was done, in a sentence.

    A folder of images is copied. Of a data set that is stored otherwise only the list of what to
    keep is written. Raises UserError if the folder has something in it already.
    """
    frame = result.frame()
    flagged = set(frame["path"][frame["flagged"]])
    kept = [name for name in result.names if name not in flagged]
    check_empty(target)
    try:
        target.mkdir(parents=True, exist_ok=True)
        if root is None or not all((root / name).is_file() for name in kept):
            for file, lines in (("keep.txt", kept), ("remove.txt", sorted(flagged))):
                (target / file).write_text("\n".join([*lines, ""]), encoding="utf-8")
            return f"{target}/keep.txt and remove.txt list the images; this layout is not copied"
        for name in kept:
            place = target / name
            # A name comes from a folder or a file of somebody else.
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise UserError(f"{name!r} leaves the folder", "Rename the file.")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, place)
    except OSError as error:
        raise _unwritable(target, error) from error
    return f"{target} has {len(kept):,} images; {len(flagged):,} were left out"


def check_empty(target: Path) -> None:
    """Raise UserError if there is anything at a place that a copy is to be written to."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target}: it is no empty folder", "Give a new one: --clean-to DIR.")


def mean_difference(
    result: ScanResult, label: int, most: int = 500
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the flagged images of a class have that the others have not, and flagged rows.

    The mean of the flagged images less that of the others of the class, float64, C x H x W: a
    trigger that all of them wear stands out. The rows are those of the data set, most suspicious
    first.
    """
    judged = result.judged
    order = torch.argsort(judged.rank_N())
    mine = order[judged.label_N[order] == label]
    flagged = mine[judged.flagged_N[mine]]
    others = mine[~judged.flagged_N[mine]]
    pictures = result.scan.suspects.pictures
    flagged_rows = judged.row_N[flagged]
    worn_CHW = pictures(flagged_rows[:most]).double().mean(0)
    # A class of which everything is flagged is compared with the other classes.
    if not len(others):
        others = (judged.label_N != label).nonzero().flatten()
    other_CHW = pictures(judged.row_N[others[:most]]).double().mean(0)
    return worn_CHW - other_CHW, flagged_rows


def flagged_labels(result: ScanResult) -> Sequence[int]:
    """Return the labels with flagged images, the most frequent one first."""
    labels = result.judged.label_N[result.judged.flagged_N]
    counts = torch.bincount(labels, minlength=1)
    return [
        int(label) for label in torch.argsort(counts, descending=True, stable=True) if counts[label]
    ]


def _unwritable(place: Path, error: OSError) -> UserError:
    return UserError(f"{place}: can't be written: {error.strerror}", "Give another path.")
