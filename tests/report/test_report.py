import base64
import io
import json
import re
import sys
from datetime import UTC, datetime
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from raybd.metrics import detection
from raybd.metrics.catalogue import BY_NAME
from raybd.report.cells.curves import ROC_POINTS, histogram, roc, threshold
from raybd.report.cells.gallery import MAX_SIDE, data_uris, difference
from raybd.report.cells.tables import tables, tint
from raybd.report.site import write_report
from raybd.results.schemas import CELLS, SCORES
from raybd.results.store import Store
from raybd.types.data import CROSS, POISON, SAMPLE_ROLES
from raybd.types.errors import UserError

N, SIDE, SHOWN = 300, 8, 16
HOSTILE = "</script><script>alert('x')</script>\u2028<img src=x onerror=alert(1)>"
BLANK: dict[str, Any] = {
    **dict.fromkeys(CELLS.names),
    "status": "ok",
    "experiment": "quick",
    "dataset": "digits",
    "network": "small_cnn",
}
BLANK |= {
    "trainer": "supervised",
    "seconds": 1.5,
    "device": "cpu (x86_64, 2 cores)",
    "commit": "abc123",
    "rate": 0.1,
    "seed": 0,
}


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def key(stage: str, *names: Any) -> str:
    return "-".join(map(str, (stage, *names)))


def row(
    cell: str, attack: str, defense: str, role: str, seed: int, **values: Any
) -> dict[str, Any]:
    stages = {"poison": key("poison", attack, seed), "victim": key("victim", attack, seed)}
    if role in ("detector", "scanner"):
        stage = "score" if role == "detector" else "scan"
        stages[stage] = key(stage, attack, defense, seed)
    kind = "none" if attack == "none" else "badnets"
    config = {
        "dataset": {"kind": "digits"},
        "attack": {"kind": kind, "version": 1},
        "trainer": {"kind": "supervised", "epochs": values.pop("epochs", 5)},
        "network": {"kind": "small_cnn"},
        "defense": None if defense == "none" else {"kind": defense},
        "stages": stages,
    }
    names = {"cell": cell, "attack": attack, "defense": defense, "defense_role": role, "seed": seed}
    return {
        **BLANK,
        **names,
        "config": json.dumps(config),
        "finished_at": datetime(2026, 1, 2, tzinfo=UTC),
        **values,
    }


def poison(store: Store, attack: str, seed: int, n: int) -> None:
    before = images(n, seed)
    after = before.clone()
    after[..., -2:, -2:] = 255
    role = torch.full((n,), POISON, dtype=torch.int8)
    role[: n // 3] = CROSS
    tensors = {
        "index_M": torch.arange(n),
        "x_MCHW": after,
        "y_M": torch.zeros(n, dtype=torch.int64),
        "role_M": role,
        "gallery_before": before[:SHOWN].clone(),
        "gallery_after": after[:SHOWN].clone(),
    }
    facts = {"n_train": N, "n_poison": n - n // 3, "n_cross": n // 3, "largest_pixel_change": 255}
    store.save("poison", key("poison", attack, seed), tensors, facts)


def detect(
    store: Store, cell: str, attack: str, defense: str, seed: int, **values: Any
) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(seed)
    role_N = torch.zeros(N, dtype=torch.int8)
    if attack != "none":
        role_N[:40], role_N[40:50] = POISON, CROSS
    score_N = torch.randn(N, generator=rng) + 1.5 * (role_N == POISON)
    threshold_N = torch.full((N,), 1.0) if defense == "strip" else torch.linspace(0.9, 1.2, N)
    label_N, true_N = torch.arange(N) % 10, torch.arange(N) % 10
    label_N[role_N == POISON] = 0
    top = torch.argsort(score_N, descending=True)[:SHOWN]
    x_NCHW = images(N, 7)
    tensors = {
        "score_N": score_N,
        "threshold_N": threshold_N,
        "index_N": torch.arange(N),
        "label_N": label_N,
        "true_label_N": true_N,
        "role_N": role_N,
        "gallery": x_NCHW[top],
        "gallery_row": top,
    }
    flagged_N = score_N > threshold_N
    if defense == "strip":
        tensors |= {"picture.masked": images(4, 8), "picture.input": images(4, 9)}
        tensors |= {"picture.role": role_N[:4], "picture.score": score_N[:4]}
    facts = {
        **detection.detection(score_N, flagged_N, role_N),
        "n_scores": N,
        "n_flagged": int(flagged_N.sum()),
    }
    store.save("score", key("score", attack, defense, seed), tensors, facts)
    constant = {
        "cell": cell,
        "experiment": "quick",
        "sweep": None,
        "trial": None,
        "trainer": "supervised",
        "seed": seed,
        "pool": "train",
    }
    columns = {name: [constant.get(name)] * N for name in SCORES.names}
    columns |= {
        "index": tensors["index_N"].numpy(),
        "label": label_N.numpy(),
        "true_label": true_N.numpy(),
    }
    columns |= {
        "score": score_N.numpy(),
        "threshold": threshold_N.numpy(),
        "flagged": flagged_N.numpy(),
    }
    columns["role"] = [SAMPLE_ROLES[role] for role in role_N.tolist()]
    store.write_scores(cell, "digits", attack, defense, columns)
    found = row(cell, attack, defense, "detector", seed, **facts, **values)
    store.write_cell(found)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """What two seeds of a small experiment leave behind; one cell failed, one is infeasible."""
    store = Store(str(tmp_path / "results"))
    store.write_experiment("quick", {"name": "quick", "note": HOSTILE})
    for seed, clean, success in ((0, 0.9, 0.98), (1, 0.8, 0.99)):
        poison(store, "badnets", seed, 30)
        poison(store, "weak", seed, 30)
        poison(store, "none", seed, 0)
        victim = {
            "clean_accuracy": clean,
            "attack_success": success,
            "robust_accuracy": 1 - success,
        }
        store.write_cell(row(f"u{seed}", "badnets", "none", "none", seed, **victim))
        detect(store, f"d{seed}", "badnets", "spectral", seed, **victim)
        detect(store, f"w{seed}", "weak", "strip", seed, **{**victim, "attack_success": 0.1})
        detect(store, f"b{seed}", "none", "strip", seed, clean_accuracy=clean)
        after = {
            "defended_clean_accuracy": 0.85,
            "defended_attack_success": 0.03,
            "defended_robust_accuracy": 0.9,
        }
        store.write_cell(row(f"r{seed}", "badnets", "fine_tune", "repair", seed, **victim, **after))
        scan = {
            "model_score": 0.97 + seed / 100,
            "model_threshold": 0.9,
            "control_model_score": 0.5,
            "n_flagged": 1,
            "trigger_iou": 0.25,
        }
        store.save(
            "scan", key("scan", "badnets", "decree", seed), {"picture.mask": images(1, seed)}, scan
        )
        store.write_cell(row(f"s{seed}", "badnets", "decree", "scanner", seed, **victim, **scan))
    store.write_cell(
        row(
            "f0", "badnets", "strip", "detector", 0, status="failed", error=f"ValueError: {HOSTILE}"
        )
    )
    store.write_cell(
        row(
            "i0",
            "sig",
            "none",
            "none",
            0,
            status="infeasible",
            error="rate 0.5 needs 700 images of class 0, there are 142",
        )
    )
    return store


class Page(HTMLParser):
    """Elements, texts and addresses of a page as a browser sees them, without its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    @property
    def data(self) -> dict[str, Any]:
        return dict(json.loads(self.scripts[0]))


def page(store: Store) -> Page:
    return Page(Path(write_report(store)).read_text(encoding="utf-8"))


def test_writes_one_page_into_the_store(store: Store) -> None:
    assert write_report(store) == f"{store.root}/report/index.html"
    assert store.exists("report/index.html")


def test_says_which_experiment_mixes_precisions(store: Store) -> None:
    assert "small differences may come from that" not in page(store).text
    for seed, precision in ((0, "bf16"), (1, "fp32")):
        versions = json.dumps({"torch": "2.11.0", "precision": precision})
        store.write_cell(row(f"u{seed}", "badnets", "none", "none", seed, versions=versions))
    assert "quick: these rows were computed in bf16 and fp32" in page(store).text


def test_writes_where_it_is_told(store: Store, tmp_path: Path) -> None:
    assert write_report(store, tmp_path / "new" / "page.html") == str(
        tmp_path / "new" / "page.html"
    )
    assert write_report(store, tmp_path) == str(tmp_path / "index.html")
    assert (tmp_path / "new" / "page.html").exists() and (tmp_path / "index.html").exists()


def test_an_output_that_cannot_be_written_is_a_user_error(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        write_report(store, tmp_path / "file" / "page.html")


def test_the_page_holds_every_cell(store: Store) -> None:
    found = page(store)
    frame = store.cells()
    for column in ("experiment", "dataset", "attack", "trainer", "network", "defense", "status"):
        assert all(name in found.text for name in frame[column].unique())
    ids = {attributes.get("id") for _, attributes in found.elements}
    assert {f"row-{cell}" for cell in ("u0", "d0", "w0", "b0", "r0", "f0", "i0")} <= ids
    scored = frame[frame.defense_role.isin(["detector", "scanner"]) & (frame.status == "ok")][
        "cell"
    ]
    assert {f"cell-{cell}" for cell in scored} <= ids
    assert set(found.data["cells"]) == set(scored)


def test_links_lead_to_sections_of_the_page(store: Store) -> None:
    elements = page(store).elements
    ids = {attributes.get("id") for _, attributes in elements}
    links = [str(attributes["href"]) for tag, attributes in elements if tag == "a"]
    assert links and all(link.startswith("#") and link[1:] in ids for link in links)


def test_reasons_are_shown_as_text(store: Store) -> None:
    found = page(store)
    assert HOSTILE in found.text.replace("\r\n", "\n")
    assert "there are 142" in found.text


def test_names_from_the_store_never_become_markup_or_code(store: Store) -> None:
    store.write_cell(
        {
            **row("x0", HOSTILE, HOSTILE, "repair", 0),
            "trainer": HOSTILE,
            "network": HOSTILE,
            "device": HOSTILE,
            "status": HOSTILE,
        }
    )
    hostile = {
        "defended_clean_accuracy": 0.5,
        "clean_accuracy": 0.5,
        "dataset": HOSTILE,
        "experiment": HOSTILE,
        "commit": HOSTILE,
    }
    store.write_cell({**row("x1", HOSTILE, HOSTILE, "detector", 0, **hostile)})
    html = Path(write_report(store)).read_text(encoding="utf-8")
    found = Page(html)
    assert "<script>alert" not in html and "<img src=x" not in html and html.count("</script>") == 2
    assert len(found.scripts) == 2
    assert not [
        attributes
        for tag, attributes in found.elements
        if tag == "img" or any(name.startswith("on") for name in attributes)
    ]
    assert not set("<>&\u2028") & set(found.scripts[0])
    assert any(
        HOSTILE in name
        for rows in found.data["defended"]
        for entry in rows
        for name in entry["names"]
    )


def test_loads_nothing_from_elsewhere(store: Store) -> None:
    html = Path(write_report(store)).read_text(encoding="utf-8")
    found = Page(html)
    assert not {"link", "iframe", "base", "object"} & {tag for tag, _ in found.elements}
    assert not [attributes for _, attributes in found.elements if "src" in attributes]
    style, script = re.search(r"<style>(.*?)</style>", html, re.DOTALL), found.scripts[1]
    assert style and not re.search(r"url\(|@import", style[1])
    assert not re.search(r"https?://|fetch\(|XMLHttpRequest|innerHTML", script)


def test_two_pages_of_one_store_differ_in_their_time_only(store: Store) -> None:
    first, second = (
        re.sub(r"This page</dt><dd>.*?</dd>", "", Path(write_report(store)).read_text())
        for _ in range(2)
    )
    assert first == second


def test_every_score_is_in_the_histogram(store: Store) -> None:
    drawn = page(store).data["cells"]
    for cell in (cell for name, cell in drawn.items() if not name.startswith("s")):
        assert sum(sum(counts) for counts in cell["histogram"]["counts"].values()) == N


def test_extreme_scores_are_counted_in_the_end_bins() -> None:
    score_N = np.concatenate([np.linspace(0, 1, 992), np.full(4, 1e6), np.full(4, -1e6)])
    found = histogram(score_N, np.zeros(1000, np.int8), mark=2.0)
    counts = found["counts"]["clean"]
    assert sum(counts) == 1000 and found["tails"] >= 8
    assert found["low"] > -1 and found["low"] + found["width"] * len(counts) == pytest.approx(2.0)


def test_equal_scores_are_one_bin() -> None:
    assert sorted(histogram(np.full(9, 3.0), np.zeros(9, np.int8))["counts"]["clean"])[-2:] == [
        0,
        9,
    ]


def test_the_roc_curve_has_the_stored_area(store: Store) -> None:
    cells = store.cells().set_index("cell")
    drawn = {
        cell: drawing for cell, drawing in page(store).data["cells"].items() if drawing.get("roc")
    }
    assert set(drawn) == {"d0", "d1", "w0", "w1"}
    for cell, drawing in drawn.items():
        assert np.trapezoid(drawing["roc"]["tpr"], drawing["roc"]["fpr"]) == pytest.approx(
            cells.auroc[cell], abs=0.01
        )
        assert drawing["point"] == [cells.fpr[cell], cells.tpr[cell]]


@pytest.mark.parametrize("decimals", [6, 1, 0])
def test_a_thinned_roc_curve_keeps_its_area_with_and_without_ties(decimals: int) -> None:
    rng = np.random.default_rng(0)
    role_N = (rng.random(20_000) < 0.1).astype(np.int8) * POISON
    score_N = np.round(rng.normal(size=20_000) + (role_N == POISON), decimals)
    found = roc(score_N, role_N)
    assert found is not None and len(found["fpr"]) <= ROC_POINTS
    exact = detection.detection(
        torch.from_numpy(score_N), torch.zeros(20_000, dtype=torch.bool), torch.from_numpy(role_N)
    )["auroc"]
    assert np.trapezoid(found["tpr"], found["fpr"]) == pytest.approx(exact, abs=0.002)


def test_a_control_has_no_roc_curve(store: Store) -> None:
    assert page(store).data["cells"]["b0"]["roc"] is None
    assert roc(np.arange(3.0), np.full(3, POISON, np.int8)) is None


def test_a_threshold_per_sample_is_drawn_as_its_median_and_said_to_vary() -> None:
    assert threshold(np.array([1.0, 2.0, 4.0])) == {
        "value": 2.0,
        "varies": True,
        "text": "2 (median; one per sample, 1 to 4)",
    }
    assert threshold(np.array([1.5, 1.5])) == {"value": 1.5, "varies": False, "text": "1.5"}
    assert threshold(np.array([np.inf, np.inf]))["value"] is None


def pixels(uri: str) -> torch.Tensor:
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    image = np.array(Image.open(io.BytesIO(base64.b64decode(body))))
    return torch.from_numpy(image).permute(2, 0, 1)


def test_the_gallery_shows_the_stored_pixels_in_order_of_suspicion(store: Store) -> None:
    data = page(store).data
    stored, cell = (
        store.load("score", key("score", "badnets", "spectral", 0)).tensors,
        data["cells"]["d0"],
    )
    shown = torch.stack([pixels(data["images"][number]) for number in cell["images"]])
    assert torch.equal(shown, stored["gallery"])
    top = stored["gallery_row"]
    assert [caption[0] for caption in cell["captions"]] == [
        SAMPLE_ROLES[role] for role in stored["role_N"][top].tolist()
    ]
    assert [caption[1] for caption in cell["captions"]] == pytest.approx(
        stored["score_N"][top].tolist(), rel=1e-3
    )
    assert [caption[3:5] for caption in cell["captions"]] == torch.stack(
        [stored["label_N"][top], stored["true_label_N"][top]], 1
    ).tolist()


def test_what_a_detector_saw_is_shown_with_roles_and_scores(store: Store) -> None:
    data = page(store).data
    stored, cell = (
        store.load("score", key("score", "weak", "strip", 0)).tensors,
        data["cells"]["w0"],
    )
    assert list(cell["seen"]) == ["input", "masked"]
    for name, numbers in cell["seen"].items():
        assert torch.equal(
            torch.stack([pixels(data["images"][number]) for number in numbers]),
            stored[f"picture.{name}"],
        )
    assert [role for role, _ in cell["seen_captions"]] == ["poison"] * 4
    assert [score for _, score in cell["seen_captions"]] == pytest.approx(
        stored["picture.score"].tolist(), rel=1e-3
    )
    assert data["cells"]["d0"]["seen"] == {}


def test_a_scan_stands_in_the_table_beside_that_of_the_clean_twin(store: Store) -> None:
    found = page(store)
    cell = found.data["cells"]["s1"]
    assert "histogram" not in cell and cell["missing"] == []
    assert "suspicion 0.975, of the clean twin 0.500" in found.text
    assert "called backdoored" in found.text
    assert "overlap of the recovered trigger with the true one (IoU) 0.250" in found.text


def test_a_recovered_trigger_stands_beside_the_true_one(store: Store) -> None:
    data = page(store).data
    assert list(data["cells"]["s1"]["seen"]) == ["mask", "true trigger"]
    stored = store.load("poison", key("poison", "badnets", 1)).tensors
    change, before, after = (
        pixels(data["images"][number]) for number in data["cells"]["s1"]["seen"]["true trigger"]
    )
    assert torch.equal(before, stored["gallery_before"][0])
    assert torch.equal(after, stored["gallery_after"][0])
    apart = (after.int() - before.int()).abs()
    assert torch.equal(change > 0, apart > 0)
    assert int(change.max()) > int(apart.max()) or int(apart.max()) > 127
    # What a detector of samples saw has roles and scores, and stays alone.
    assert "true trigger" not in data["cells"]["w0"]["seen"]


def test_without_the_poison_a_recovered_trigger_stands_alone(store: Store) -> None:
    scan = {"model_score": 3.0, "model_threshold": 2.0, "n_flagged": 1}
    for attack in ("none", "lost"):
        store.save("scan", key("scan", attack, "nc", 0), {"picture.mask": images(1, 0)}, scan)
        store.write_cell(row(f"n-{attack}", attack, "nc", "scanner", 0, **scan))
    drawn = page(store).data["cells"]
    assert list(drawn["n-none"]["seen"]) == list(drawn["n-lost"]["seen"]) == ["mask"]


def test_an_attack_is_shown_before_after_and_as_their_difference(store: Store) -> None:
    data = page(store).data
    attack = data["attacks"][key("poison", "badnets", 0)]
    stored = store.load("poison", key("poison", "badnets", 0)).tensors
    for name, tensor in (("before", stored["gallery_before"]), ("after", stored["gallery_after"])):
        assert torch.equal(
            torch.stack([pixels(data["images"][number]) for number in attack["images"][name]]),
            tensor,
        )
    assert [caption[0] for caption in attack["captions"]] == ["cross"] * 10 + ["poison"] * 6
    assert (
        key("poison", "none", 0) not in data["attacks"]
        and key("poison", "sig", 0) not in data["attacks"]
    )


def test_a_faint_change_is_amplified_by_a_whole_factor() -> None:
    before = torch.full((1, 1, 2, 2), 100, dtype=torch.uint8)
    after = before + torch.tensor([[[[0, 5], [10, 0]]]], dtype=torch.uint8)
    change, factor = difference(before, after)
    assert factor == 25 and change.flatten().tolist() == [0, 125, 250, 0]
    assert difference(before, before)[1] == 1


def test_variants_of_one_attack_are_shown_once(store: Store) -> None:
    found = page(store)
    # `weak` is the same kind with the same fields: rates and seeds change no look.
    assert list(found.data["attacks"]) == [key("poison", "badnets", 0)]
    text = " ".join(found.text.split())
    assert "The same with weak at 0.1, seed 0; badnets at 0.1, seed 1; weak at 0.1, seed 1." in text
    other = row("y0", "large", "none", "none", 0)
    config = json.loads(other["config"])
    config["attack"]["size"] = 5
    config["stages"]["poison"] = key("poison", "large", 0)
    poison(store, "large", 0, 30)
    store.write_cell({**other, "config": json.dumps(config)})
    assert set(page(store).data["attacks"]) == {
        key("poison", "badnets", 0),
        key("poison", "large", 0),
    }


def test_the_status_stands_beside_the_names_and_the_costs_at_the_end(store: Store) -> None:
    store.write_cell(
        row("u0", "badnets", "none", "none", 0, gpu_seconds=12.5, peak_memory_bytes=3 * 2**29)
    )
    html = Path(write_report(store)).read_text(encoding="utf-8")
    head = html.split("<thead>")[1].split("</thead>")[0]
    titles = re.findall(r"<button type=\"button\">(.*?)</button>", head)
    assert titles[:6] == ["dataset", "attack", "trainer", "defense", "seeds", "status"]
    assert titles[-4:] == ["seconds", "GPU seconds", "memory", "device"]
    assert "12.5" in html and "1.50 GiB" in html


def test_what_scrolls_can_be_reached_with_the_keyboard(store: Store) -> None:
    elements = page(store).elements
    scrolling = [
        attributes
        for tag, attributes in elements
        if tag == "pre" or "scroll" in str(attributes.get("class")).split()
    ]
    assert scrolling and all(attributes.get("tabindex") == "0" for attributes in scrolling)


def test_the_page_of_a_small_store_is_small(store: Store) -> None:
    assert Path(write_report(store)).stat().st_size < 500_000


def test_large_and_gray_images_are_shown_too() -> None:
    large = Image.open(
        io.BytesIO(
            base64.b64decode(
                data_uris(torch.zeros(1, 1, 300, 200, dtype=torch.uint8))[0].partition(",")[2]
            )
        )
    )
    assert max(large.size) == MAX_SIDE


def test_an_image_is_stored_once_however_often_it_is_shown(store: Store) -> None:
    data = page(store).data
    assert (
        len(set(data["images"]))
        == len(data["images"])
        < sum(len(cell["images"]) for cell in data["cells"].values()) + 4 * 3 * SHOWN
    )


def test_cells_that_differ_in_seed_only_are_one_row_with_mean_and_interval(store: Store) -> None:
    cells = store.cells().astype(object)
    (table,) = tables(cells.where(cells.notna(), None).to_dict("records"))
    rows = {row["cell"]: row for row in table.rows}
    assert set(rows) == {"u0", "d0", "w0", "b0", "r0", "s0", "f0", "i0"}
    found = rows["u0"].estimate(BY_NAME["clean_accuracy"])
    assert found is not None and found.value == pytest.approx(0.85) and found.n == 2
    # Two seeds that differ by 0.1 know next to nothing: 0.05 x 12.7 on either side.
    assert (found.low, found.high) == (pytest.approx(0.85 - 0.05 * 12.706, abs=1e-4), 1)
    assert rows["u0"].number("auroc").mean is None
    assert rows["f0"].number("clean_accuracy").n == 0 and rows["f0"].empty
    text = page(store).text
    assert "0.850" in text and "[0.215, 1.000]" in text


def test_the_latest_of_two_cells_of_a_seed_is_shown() -> None:
    old, new = (
        row("a", "badnets", "none", "none", 0),
        row("b", "badnets", "none", "none", 0, finished_at=datetime(2026, 2, 1, tzinfo=UTC)),
    )
    (found,) = tables([new, old])[0].rows
    assert [cell["cell"] for cell in found.cells] == ["b"] and found.superseded == 1


def test_rows_of_the_same_names_are_told_apart_by_their_hyperparameters() -> None:
    found = tables(
        [row("a", "badnets", "none", "none", 0), row("b", "badnets", "none", "none", 0, epochs=9)]
    )[0].rows
    assert [entry.variant for entry in found] == ["trainer.epochs=5", "trainer.epochs=9"]


def test_numbers_of_a_victim_without_a_backdoor_are_marked(store: Store) -> None:
    cells = store.cells().astype(object)
    rows = {
        row["cell"]: row
        for row in tables(cells.where(cells.notna(), None).to_dict("records"))[0].rows
    }
    assert {cell: rows[cell].attacks_failed for cell in ("w0", "d0", "b0")} == {
        "w0": 2,
        "d0": 0,
        "b0": 0,
    }
    html = Path(write_report(store)).read_text(encoding="utf-8")
    bodies = {
        cell: html.split(f'id="row-{cell}"')[1].split("</tbody>")[0] for cell in ("w0", "d0", "b0")
    }
    assert "attack failed" in bodies["w0"] and "attack failed" not in bodies["d0"] + bodies["b0"]
    assert "false alarms" in bodies["b0"] and "false alarms" not in bodies["d0"]


def test_colours_point_the_way_that_is_good_for_a_defender() -> None:
    assert tint(BY_NAME["auroc"], 1.0) == ("good", 100)
    assert tint(BY_NAME["auroc"], 0.5) == ("bad", 100) == tint(BY_NAME["auroc"], 0.2)
    assert tint(BY_NAME["fpr"], 0.0) == ("good", 100)
    assert tint(BY_NAME["fpr"], 0.1) == ("good", 0)
    assert tint(BY_NAME["fpr"], 0.15) == ("bad", 50) and tint(BY_NAME["fpr"], 0.75) == ("bad", 100)
    assert tint(BY_NAME["defended_attack_success"], 1.0) == ("bad", 100)
    assert tint(BY_NAME["attack_success"], 1.0) is None
    assert tint(BY_NAME["tpr"], None) is None


def test_damaged_and_missing_parts_leave_a_page_that_says_so(store: Store) -> None:
    damaged = key("score", "badnets", "spectral", 0)
    path = Path(store.root) / "artifacts" / "score" / damaged / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    store.remove(f"artifacts/poison/{key('poison', 'badnets', 0)}")
    store.write("scores/dataset=digits/attack=badnets/defense=spectral/d1.parquet", b"PAR1 not")
    store.remove("scores/dataset=digits/attack=none/defense=strip/b0.parquet")
    data = page(store).data
    assert "is damaged" in data["cells"]["d0"]["missing"][0] and "histogram" in data["cells"]["d0"]
    assert "is damaged" in data["cells"]["d1"]["missing"][0] and data["cells"]["d1"]["captions"]
    assert "is missing" in data["cells"]["b0"]["missing"][0]
    assert "is missing" in data["attacks"][key("poison", "badnets", 0)]["missing"][0]
    assert not data["cells"]["w0"]["missing"]


def test_an_unreadable_row_is_set_aside_and_said(store: Store) -> None:
    store.write("cells/u0.parquet", b"half a f")
    assert "1 row of the cells table could not be read" in page(store).text


def test_an_empty_store_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no cells\n.*[Rr]un an experiment first"):
        write_report(Store(str(tmp_path / "empty")))


@pytest.mark.parametrize("package", ["jinja2"])
def test_a_missing_extra_is_a_user_error(
    store: Store, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install raybd\[report\]"):
        write_report(store)


def test_a_table_of_several_torch_versions_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for seed, torch_version in enumerate(("2.5.1", "2.6.0")):
        found = json.dumps({"torch": torch_version})
        store.write_cell(row(f"cell{seed}", "none", "none", "none", seed, versions=found))
    html = Path(write_report(store)).read_text()
    assert "quick: these rows were computed by torch 2.5 and 2.6" in html


def test_a_linked_experiment_file_is_not_shown(store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("what only the user may read")
    name = str(store.cells()["experiment"].iloc[0])
    path = Path(store.at(f"experiments/{name}.yaml"))
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(secret)
    assert "what only the user may read" not in Path(write_report(store)).read_text()


def test_the_page_runs_its_own_scripts_and_no_other(store: Store) -> None:
    found = page(store)
    policies = [
        attributes["content"] or ""
        for tag, attributes in found.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    # Before anything that it should stop.
    assert [tag for tag, _ in found.elements[:4]] == ["html", "head", "meta", "meta"]
    assert len(policies) == 1
    rules = dict(rule.split(maxsplit=1) for rule in policies[0].split("; "))
    digests = [base64.b64encode(sha256(text.encode()).digest()) for text in found.scripts[1:]]
    assert rules["script-src"].split() == [
        f"'sha256-{digest.decode()}'" for digest in digests[::-1]
    ]
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    # A browser hashes a script as it reads it, with one kind of line end.
    assert not any("\r" in text for text in found.scripts)


def replaced(store: Store, stage: str, name: str, **tensors: torch.Tensor | None) -> None:
    """Write an artefact again, with other tensors or without some, under checksums that fit."""
    artifact = store.load(stage, name)
    changed = {**artifact.tensors, **tensors}
    kept = {key: tensor for key, tensor in changed.items() if tensor is not None}
    store.save(stage, name, kept, artifact.manifest)


OF_A_DETECTOR: dict[str, dict[str, torch.Tensor | None]] = {
    "no gallery": {"gallery": None},
    "no rows": {"gallery_row": None},
    "no scores": {"score_N": None},
    "rows beyond the last": {"gallery_row": torch.full((SHOWN,), 10**9)},
    "more rows than pictures": {"gallery_row": torch.zeros(SHOWN + 1, dtype=torch.int64)},
    "scores of two dimensions": {"score_N": torch.zeros(N, 1)},
    "fewer scores": {"score_N": torch.zeros(3)},
    "scores that are not finite": {"score_N": torch.full((N,), float("inf"))},
    "roles that no sample has": {"role_N": torch.full((N,), 99)},
    "pictures of floats": {"gallery": torch.zeros(SHOWN, 3, 8, 8)},
    "pictures of five colours": {"gallery": torch.zeros(SHOWN, 5, 8, 8, dtype=torch.uint8)},
    "pictures without pixels": {"gallery": torch.zeros(SHOWN, 3, 0, 8, dtype=torch.uint8)},
    "endless pictures": {"gallery": torch.zeros(0, 3, 2**40, 8, dtype=torch.uint8)},
    "large pictures": {"gallery": torch.zeros(SHOWN, 3, 1500, 1500, dtype=torch.uint8)},
    "own pictures of many sizes": {"picture.x": torch.zeros(1, 3, 9000, 9000, dtype=torch.uint8)},
}


@pytest.mark.parametrize("what", OF_A_DETECTOR)
def test_an_artefact_that_is_no_detectors_is_named_on_the_page(store: Store, what: str) -> None:
    replaced(store, "score", key("score", "badnets", "spectral", 0), **OF_A_DETECTOR[what])
    drawn = page(store).data["cells"]
    assert (
        f"artifacts/score/{key('score', 'badnets', 'spectral', 0)}: " in drawn["d0"]["missing"][0]
    )
    assert drawn["d0"]["missing"][0].endswith("can't be shown.")
    assert not drawn["d0"]["captions"]
    assert drawn["d0"]["histogram"]
    assert drawn["d1"]["captions"]


OF_AN_ATTACK: dict[str, dict[str, torch.Tensor | None]] = {
    "no pictures": {"gallery_before": None},
    "other pictures after": {"gallery_after": torch.zeros(SHOWN, 3, 4, 4, dtype=torch.uint8)},
    "no labels": {"y_M": None},
    "few labels": {"y_M": torch.zeros(2), "role_M": torch.zeros(2)},
    "roles that no sample has": {"role_M": torch.full((30,), -1)},
}


@pytest.mark.parametrize("what", OF_AN_ATTACK)
def test_an_artefact_that_is_no_attacks_is_named_on_the_page(store: Store, what: str) -> None:
    replaced(store, "poison", key("poison", "badnets", 0), **OF_AN_ATTACK[what])
    drawn = page(store).data["attacks"]
    assert drawn[key("poison", "badnets", 0)]["missing"][0].endswith("can't be shown.")
    assert page(store).data["cells"]["d0"]["images"]


HOSTILE_ROWS: dict[str, dict[str, Any]] = {
    "a configuration that is no JSON": {"config": "{"},
    "a configuration of a list": {"config": "[1]"},
    "a deep configuration": {"config": "[" * 100_000},
    "methods that are none": {"config": json.dumps({"attack": [], "dataset": 3, "stages": "x"})},
    "keys outside of the store": {
        "config": json.dumps({"stages": {"poison": "../../../x", "score": "../x"}})
    },
    "a stage outside of the store": {"config": json.dumps({"suspicion": "../../..", "stages": 1})},
    "versions that are none": {"versions": json.dumps({"torch": ["2.5"], "precision": None})},
    "versions of words": {"versions": json.dumps({"torch": "x.y, 9.9"})},
    "versions of a list": {"versions": "[1]"},
    "infinite numbers": {"gpu_seconds": float("inf"), "auroc_over_control": float("inf")},
}


@pytest.mark.parametrize("what", HOSTILE_ROWS)
def test_a_row_that_somebody_else_wrote_is_on_the_page(store: Store, what: str) -> None:
    found = row("h0", "badnets", "spectral", "detector", 0) | HOSTILE_ROWS[what]
    store.write_cell(found)
    assert 'id="row-h0"' in Path(write_report(store)).read_text(encoding="utf-8")


def test_an_experiment_file_of_gigabytes_is_not_shown(store: Store) -> None:
    with Path(store.at("experiments/quick.yaml")).open("r+b") as file:
        file.truncate(2**30)
    assert "is not shown: it has more than" in page(store).text
