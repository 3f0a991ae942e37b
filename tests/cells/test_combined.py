"""Stored verdicts are combined by rank, judged like a detector, and run nothing again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from raybd import combine, load_cells, load_scores
from raybd.cells.combined import NO_P_VALUES, verdict
from raybd.cells.run import run_cell
from raybd.metrics import combining
from raybd.plan.file import parse
from raybd.results.artifacts import Artifact
from raybd.results.store import Store
from raybd.types.data import POISON
from raybd.types.errors import UserError
from tests.cli.in_process import raybd
from tests.tiny_cells import TINY

DETECTORS = [
    {"kind": "spectral", "reference": "trusted"},
    {"kind": "strip", "pool": "train", "overlays": 4},
    {"kind": "strip", "name": "strip_stream", "overlays": 4},
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with two detectors of a training set, and one of test inputs."""
    store = Store(str(tmp_path_factory.mktemp("combined")))
    for cell in parse({**TINY, "removal": False, "detectors": DETECTORS}).cells():
        run_cell(cell, store)
    return store.url


def test_the_score_is_the_mean_of_the_normal_scores_of_ranks(url: str) -> None:
    combine(url)
    scores = {
        name: load_scores(url, defense=name).sort_values("index")
        for name in ("rank_mean", "spectral", "strip")
    }
    own = torch.tensor(np.stack([scores[name]["score"] for name in ("spectral", "strip")]))
    assert torch.allclose(
        torch.tensor(scores["rank_mean"]["score"].to_numpy()), combining.rank_mean(own).float()
    )
    for column in ("role", "label", "true_label"):
        assert scores["rank_mean"][column].tolist() == scores["strip"][column].tolist()


def test_it_is_judged_like_any_detector(url: str) -> None:
    (row,) = combine(url).to_dict("records")
    scores = load_scores(url, defense="rank_mean")
    poison = scores["role"] == "poison"
    assert row["auroc"] == pytest.approx(roc_auc_score(poison, scores["score"]), abs=1e-6)
    assert row["tpr"] == pytest.approx(scores["flagged"][poison].mean())
    assert row["n_flagged"] == scores["flagged"].sum()
    stored = load_cells(url).set_index("defense").loc["rank_mean"]
    assert stored["auroc"] == row["auroc"]
    assert stored["clean_accuracy"] == load_cells(url)["clean_accuracy"].iloc[0]
    assert json.loads(stored["config"])["defense"]["of"] == ["spectral", "strip"]


def test_what_is_there_is_not_computed_again(url: str) -> None:
    first, again = (combine(url)["finished_at"].iloc[0] for _ in range(2))
    assert first == again


def test_only_verdicts_of_one_pool_are_combined(url: str) -> None:
    # strip_stream is alone with its test inputs, and belongs to no combination.
    assert len(combine(url)) == 1
    with pytest.raises(UserError, match="no victim that two detectors of one pool have scored"):
        combine(url, ["spectral", "strip_stream"])


def test_names_that_do_not_fit_are_refused(url: str) -> None:
    with pytest.raises(UserError, match=r"no cell of .* has scores of 'spectra'") as error:
        combine(url, ["spectra", "strip"])
    assert "Did you mean 'spectral'?" in str(error.value.hint)
    with pytest.raises(UserError, match="'strip' is the name of a detector"):
        combine(url, name="strip")
    with pytest.raises(UserError, match="one detector alone"):
        combine(url, ["strip"])
    with pytest.raises(UserError, match="cannot be the name of a folder"):
        combine(url, name="a/b")


def test_the_command_prints_the_table_and_says_why_there_are_no_p_values(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        raybd(monkeypatch, "combine", url, "--detectors", "strip", "--detectors", "spectral") == 0
    )
    shown = capsys.readouterr()
    assert "rank_mean" in shown.out
    assert "no p-values: no scores of held-out clean images are stored" in shown.err
    assert raybd(monkeypatch, "combine", url, "--name", "both", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["defense"] == "both"


def test_canaries_leave_scores_of_clean_images_behind(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    raw = {**TINY, "removal": False, "canaries": {"least": 10}, "detectors": DETECTORS[:2]}
    for cell in parse(raw).cells():
        run_cell(cell, store)
    combine(tmp_path)
    scores = load_scores(tmp_path, defense="rank_mean")
    # 13 images were planted unchanged: a p-value is a multiple of 1 / 14.
    steps = scores["p_value"] * 14
    assert np.allclose(steps, steps.round())
    assert scores["p_value"].between(1 / 14 - 1e-9, 1).all()
    order = scores.sort_values("score")["p_value"]
    assert (order.diff().dropna() <= 1e-9).all()
    assert load_scores(tmp_path, defense="strip")["p_value"].isna().all()


def test_an_empty_store_has_nothing_to_combine(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no victim"):
        combine(tmp_path)


def artifact(score_N: torch.Tensor, held_M: torch.Tensor | None, poison: int) -> Artifact:
    """A verdict whose last samples are poison of class 0."""
    n = len(score_N)
    label_N = torch.arange(n) % 4
    role_N = torch.zeros(n, dtype=torch.int8)
    role_N[n - poison :] = POISON
    label_N[n - poison :] = 0
    tensors = {
        "score_N": score_N,
        "index_N": torch.arange(n),
        "label_N": label_N,
        "true_label_N": label_N,
        "role_N": role_N,
        "gallery": torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        "gallery_row": torch.tensor([0, n - 1]),
    }
    held = {} if held_M is None else {"held_score_M": held_M}
    return Artifact({**tensors, **held}, {"warning": None, "oracle": False})


def two(held: int | None, poison: int = 60, apart: float = 5.0) -> list[Artifact]:
    rng = torch.Generator().manual_seed(0)
    found = []
    for scale in (1.0, 30.0):
        clean, worn = torch.randn(1200, generator=rng), apart + torch.randn(poison, generator=rng)
        held_M = None if held is None else scale * torch.randn(held, generator=rng)
        found.append(artifact(scale * torch.cat([clean, worn]), held_M, poison))
    return found


def test_held_out_clean_scores_give_each_sample_a_p_value() -> None:
    verdicts = two(held=300)
    tensors, facts = verdict(verdicts, "train")
    together = torch.stack(
        [torch.cat([one.tensors["score_N"], one.tensors["held_score_M"]]) for one in verdicts]
    )
    combined = combining.rank_mean(together)
    assert torch.equal(tensors["p_N"], combining.conformal_p(combined[:1260], combined[1260:]))
    assert facts["no_p_values"] is None
    assert facts["warning"] is None
    assert facts["tpr"] > 0.95
    assert facts["fpr"] < 0.01


def test_its_threshold_flags_what_the_p_values_flag() -> None:
    tensors, _ = verdict(two(held=300), "train")
    flagged, _ = combining.flag(tensors["p_N"], tensors["label_N"], 300, 0.05, 0.01)
    assert flagged.any()
    assert torch.equal(tensors["score_N"] > tensors["threshold_N"], flagged)


def test_without_poison_nothing_is_flagged() -> None:
    for held in (300, None):
        _, facts = verdict(two(held, poison=0), "train")
        assert facts["n_flagged"] <= 2
        assert facts["auroc"] is None


def test_without_held_out_scores_it_says_why_there_are_no_p_values() -> None:
    verdicts = two(held=None)
    tensors, facts = verdict(verdicts, "train")
    assert "p_N" not in tensors
    assert facts["no_p_values"] == NO_P_VALUES
    assert "assumes that clean scores are symmetric" in facts["warning"]
    assert facts["tpr"] > 0.9
    assert facts["fpr"] < 0.02
    # One verdict without them is enough.
    mixed = [two(held=300)[0], verdicts[1]]
    assert verdict(mixed, "train")[1]["no_p_values"] == NO_P_VALUES


def test_one_oracle_makes_the_combination_one() -> None:
    one, other = two(held=None)
    oracle = Artifact(other.tensors, {"warning": "weak", "oracle": True})
    facts = verdict([one, oracle], "train")[1]
    assert facts["oracle"] is True
    assert "weak" in facts["warning"]
