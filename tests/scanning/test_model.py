"""A scan of a model from a file: which class is suspected, what is shown, what is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Generator

from raybd.networks.small_cnn import SmallCnn
from raybd.plan import entries
from raybd.registry import Method
from raybd.report.scans.page import write_model_page
from raybd.results.store import Store
from raybd.scanning.budget import RECIPE
from raybd.scanning.model import ModelResult, kinds_in, scanned_victim
from raybd.scanning.run import left, run_here
from raybd.trainers.supervised import Supervised
from raybd.types.data import Split
from raybd.types.methods import Scanner
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion
from tests.scanning.digits_with_patches import SUSPECTS, Patched
from tests.scanning.test_scanned import Silent
from tests.shared_victims import one_thread


class Pointing(Scanner):
    """Points at one class, and shows the first trusted image."""

    score: float = 3.0

    def scan(self, victim: Victim, clean: Split, rng: Generator) -> Suspicion:
        """Return the same verdict for every model."""
        return Suspicion(
            torch.tensor([self.score]),
            torch.tensor([2.0]),
            facts={f"index[{k}]": self.score if k == 7 else 0.5 for k in range(10)},
            pictures={"mask": clean.x_NCHW[:1]},
        )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a classifier of digits, and write its weights as somebody else would."""
    source = Patched().source()
    train = Split(source.read("train", torch.arange(SUSPECTS)), source.train_y_N)
    with one_thread():
        recipe = Supervised(epochs=6, **RECIPE)
        victim = recipe.train(train, 10, SmallCnn(width=8), Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("model")
    kept = {k: v for k, v in victim.state_dict().items() if k.startswith(("encoder.", "head."))}
    save_file(kept, folder / "model.safetensors")
    card: dict[str, Any] = {
        "pretrained_cfg": {"mean": victim.mean_C.tolist(), "std": victim.std_C.tolist()},
        "raybd": {"network": {"kind": "small_cnn", "width": 8}},
    }
    (folder / "config.json").write_text(json.dumps(card))
    return folder / "model.safetensors"


def scanned(weights: Path, store: Store, *more: Method, **fields: float) -> ModelResult:
    training = entries.training({"kind": "imported", "weights": str(weights)}, "test")
    scanner = Method("scanners", "pointing", Pointing(**fields), "pointing")
    with one_thread():
        return scanned_victim(
            training,
            Patched(),
            "patched",
            [scanner, *more],
            0,
            store,
            lambda stages: run_here(left(stages, store).values(), store, Silent()),
        )


def test_the_suspected_class_is_named_and_the_page_shows_what_was_found(
    weights: Path, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "store"))
    found = scanned(weights, store)
    assert found.accuracy is not None
    assert found.accuracy > 0.9
    (one,) = found.found
    assert one.flagged
    assert one.suspicious_class == "7"
    assert "class '7'" in found.verdict
    assert found.facts()["scanners"][0]["class_index"]["7"] == 3.0
    assert not store.files("cells/*.parquet")

    write_model_page(found, "a <model>", tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    assert "looks backdoored" in page
    assert page.count("data:image/png;base64,") == 1
    assert "a <model>" not in page


def test_a_model_in_which_nothing_is_found_is_not_called_clean(
    weights: Path, tmp_path: Path
) -> None:
    found = scanned(weights, Store(str(tmp_path / "store")), score=1.0)
    assert not found.found[0].flagged
    assert "does not mean that the model is clean" in found.verdict


def test_a_verdict_of_several_scanners_says_which_of_them_says_what(
    weights: Path, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "store"))
    silent = Method("scanners", "pointing", Pointing(score=1.0), "silent")
    found = scanned(weights, store, silent)
    assert "pointing 3.00 above 2.00, class '7'; silent found nothing" in found.verdict
    assert [one["flagged"] for one in found.facts()["scanners"]] == [True, False]

    neither = scanned(weights, store, silent, score=1.5)
    assert neither.verdict.startswith("pointing and silent found nothing")
    loud = Method("scanners", "pointing", Pointing(score=4.0), "loud")
    both = scanned(weights, store, loud).verdict
    assert "pointing 3.00" in both and "loud 4.00" in both and "found nothing" not in both


def test_scanners_are_named_one_each_time_or_with_commas() -> None:
    assert kinds_in(("mm_bd,neural_cleanse",)) == ("mm_bd", "neural_cleanse")
    assert kinds_in(("mm_bd , k_arm", "mm_bd", "")) == ("mm_bd", "k_arm")
    assert kinds_in(()) == ()
