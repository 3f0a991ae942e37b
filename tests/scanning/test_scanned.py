"""A scan of patched digits: what it flags, what it says, what it leaves behind."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from raybd.cells.stage import Stage
from raybd.networks.small_cnn import SmallCnn
from raybd.plan.graph import Training
from raybd.registry import Method
from raybd.report.scans.page import amplified, write_scan_page
from raybd.results.store import Store
from raybd.scanning.budget import Decision
from raybd.scanning.judging import Judged, judged, power_of
from raybd.scanning.passes import Pass, Scan, default_detectors
from raybd.scanning.result import (
    COLUMNS,
    ScanResult,
    flagged_labels,
    mean_difference,
    write_clean,
    write_files,
)
from raybd.scanning.run import left, run_here
from raybd.scanning.suspects import Suspects
from tests.scanning.digits_with_patches import SUSPECTS, TARGET, Patched
from tests.shared_victims import one_thread

DECISION = Decision(12, 1, 1.0)


class Silent:
    """Counts the stages that were run."""

    def __init__(self) -> None:
        self.finished: list[str] = []

    def stage_submitted(self, stage: Stage) -> None: ...

    def update(self, reports: Any) -> None: ...

    def stage_finished(self, stage: Stage) -> None:
        self.finished.append(stage.name)


def scan_of(patched: int, **fields: Any) -> Scan:
    suspects = Suspects(of=Patched(patched=patched, **fields), of_kind="patched", share=0.2)
    training = Training(
        Method("trainers", "supervised", DECISION.trainer(), "supervised"),
        Method("networks", "small_cnn", SmallCnn(width=16), "small_cnn"),
    )
    return Scan(suspects, suspects.layout(), training, default_detectors())


def run(one: Pass, store: Store) -> list[str]:
    shown = Silent()
    with one_thread():
        run_here(left(one.stages(), store).values(), store, shown)
    return shown.finished


def verdict(scan: Scan, store: Store) -> Judged:
    run(scan.plain(), store)
    return judged(scan.plain(), scan.layout, store)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def poisoned(store: Store) -> ScanResult:
    scan = scan_of(60)
    return ScanResult(scan, verdict(scan, store), (), DECISION, 0.9, ("A note.",))


def test_patched_images_are_found_and_named(poisoned: ScanResult) -> None:
    frame = poisoned.frame()
    assert tuple(frame.columns) == COLUMNS
    truth = {f"digit/{row}.png" for row in Patched(patched=60).worn().tolist()}
    found = frame[frame["flagged"]]
    assert found["path"].isin(truth).mean() >= 0.9
    assert len(truth & set(found["path"])) >= 0.7 * len(truth)
    assert set(found["label"]) == {str(TARGET)}
    assert set(frame["role"]) == {"unknown"}
    assert sorted(frame["path"]) == sorted(f"digit/{row}.png" for row in range(SUSPECTS))
    assert frame["rank"].tolist() == list(range(1, SUSPECTS + 1))
    assert frame["p_value"].is_monotonic_increasing


def test_the_verdict_names_the_class(poisoned: ScanResult) -> None:
    said = poisoned.verdict
    assert said.found
    count = int(poisoned.judged.flagged_N.sum())
    assert said.sentence.startswith(f"{count} of 700 images look poisoned: {count} labelled '3'")
    assert "not known" in said.power


def test_the_mean_difference_shows_the_patch(poisoned: ScanResult) -> None:
    assert flagged_labels(poisoned) == [TARGET]
    difference, rows = mean_difference(poisoned, TARGET)
    assert len(rows) == int(poisoned.judged.flagged_N.sum())
    assert float(difference[:, -3:, -3:].mean()) > 150
    picture, factor = amplified(difference)
    assert int(picture.max()) == 255 or int(picture.min()) <= 1
    assert factor == pytest.approx(127 / float(difference.abs().max()))


def test_files_hold_what_was_found(poisoned: ScanResult, tmp_path: Path) -> None:
    frame = write_files(poisoned, tmp_path)
    for read in (
        pd.read_csv(tmp_path / "suspects.csv", keep_default_na=False, dtype={"label": str}),
        pd.read_parquet(tmp_path / "suspects.parquet"),
    ):
        pd.testing.assert_frame_equal(read, frame, check_dtype=False, check_exact=False, rtol=1e-12)
    facts = json.loads((tmp_path / "scan.json").read_text())
    assert facts["flagged"] == int(frame["flagged"].sum())
    assert list(facts["classes"]) == ["3"]


def test_the_page_shows_verdict_suspects_and_no_script(
    poisoned: ScanResult, tmp_path: Path
) -> None:
    write_scan_page(poisoned, "<b>my data</b>", tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    assert "images look poisoned" in page
    assert "suspects labelled 3" in page
    assert "<script" not in page
    assert "<b>my data" not in page
    assert "A note." in page


def test_a_cleaned_copy_leaves_out_what_is_flagged(poisoned: ScanResult, tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "digit").mkdir(parents=True)
    for row in range(SUSPECTS):
        (root / "digit" / f"{row}.png").write_bytes(bytes([row % 251]))
    write_clean(poisoned, root, tmp_path / "copy")
    kept = {path.name for path in (tmp_path / "copy" / "digit").iterdir()}
    frame = poisoned.frame()
    flagged = {Path(path).name for path in frame["path"][frame["flagged"]]}
    assert flagged
    assert not kept & flagged
    assert len(kept) == SUSPECTS - len(flagged)


def test_other_layouts_get_lists(poisoned: ScanResult, tmp_path: Path) -> None:
    write_clean(poisoned, None, tmp_path / "lists")
    removed = (tmp_path / "lists" / "remove.txt").read_text().split()
    kept = (tmp_path / "lists" / "keep.txt").read_text().split()
    assert len(removed) == int(poisoned.judged.flagged_N.sum())
    assert len(removed) + len(kept) == SUSPECTS


def test_nothing_is_computed_twice_and_no_cell_says_what_is_clean(
    poisoned: ScanResult, store: Store
) -> None:
    assert run(poisoned.scan.plain(), store) == []
    assert not store.files("cells/*.parquet")
    assert not store.files("scores/**/*.parquet")


@pytest.mark.slow
def test_clean_digits_are_not_flagged_and_the_verdict_says_what_would_be_found(
    store: Store,
) -> None:
    scan = scan_of(0)
    clean = verdict(scan, store)
    assert float(clean.flagged_N.double().mean()) <= 0.015
    # A clean image is below a level about as often as the level says.
    assert float((clean.p_N <= 0.05).double().mean()) < 0.1

    planted = scan.with_triggers(0.08, "strong")
    run(planted, store)
    power = power_of(planted, judged(planted, scan.layout, store))
    assert [(one.kind, one.planted) for one in power] == [("patch", 56), ("blend", 56)]
    said = ScanResult(scan, clean, tuple(power), DECISION, None).verdict
    assert not said.found
    assert "does not mean that they are clean" in said.sentence
    assert f"{power[0].share:.2f} at 8% (strong)" in said.power


@pytest.mark.slow
def test_trusted_images_that_were_drawn_from_the_suspects_get_scores_too(store: Store) -> None:
    scan = scan_of(0, with_trusted=False)
    found = verdict(scan, store)
    assert found.row_N.sort().values.tolist() == list(range(SUSPECTS))
    assert bool(((found.p_N > 0) & (found.p_N <= 1)).all())
    assert torch.equal(found.p_N[len(scan.layout.suspect_N) :], found.decoy_p_L)
    said = ScanResult(scan, found, (), DECISION, None).verdict
    assert "these are upper bounds" in said.power
    assert "may be the poison" in said.sentence or not said.found
