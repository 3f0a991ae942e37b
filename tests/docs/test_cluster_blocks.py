"""The blocks that need a cluster run, as they stand, against a head that this test starts.

Addresses and stores are those of the test, and the experiments are cut to seconds. Commands of
other programs are left out, each for a reason.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from raybd.results.store import Store
from tests.clusters import Cluster, cluster
from tests.paths import REPO
from tests.scanning.digits_with_patches import SUSPECTS, write_folders

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

LEFT_OUT = {
    r"ray start|ray up|ray down|ray dashboard": "the test has started the head",
    r"export RAY_AUTH_MODE|umask": "the cluster of the test has a token of its own",
    r"export RAYBD_DATA": "the images of the test are digits",
    r"kubectl|helm": "there is no Kubernetes here; tests/cluster checks the files",
    r"ssh|aws|docker|sbatch|pip": "there is no other machine; tests/cluster checks the files",
    r"raybd run badnet/": "needs the record that is imported: tests/cli/test_import_record.py",
    r"make|raybd list|raybd show|raybd report": "test_command_blocks.py",
}
"""Commands that do not run here, and why."""
NEEDS_A_CLUSTER = re.compile(r"raybd (run|sweep|submit|doctor)\b|ray job submit")
PAGES = [
    "README.md",
    "cluster/README.md",
    *(f"docs/guide/{page.name}" for page in sorted((REPO / "docs" / "guide").glob("*.md"))),
]
DIGITS = {"kind": "digits", "limit": 300, "test_limit": 100, "clean": 60}
RECIPE = {"network": {"kind": "small_cnn", "width": 8}, "epochs": 1, "augment": "none"}


def blocks() -> Iterator[tuple[str, str]]:
    """Yield page and script of each block that needs a cluster, and of each such inline command."""
    for page in PAGES:
        text = (REPO / page).read_text(encoding="utf-8")
        found = re.findall(r"^```(?:bash|text)\n(.*?)^```", text, re.S | re.M)
        # Those in a sentence that name a placeholder as a whole are commands as well.
        found += re.findall(r"`(raybd doctor --address HEAD:6379[^`]*)`", text)
        for block in found:
            script = kept(block)
            if NEEDS_A_CLUSTER.search(script):
                yield page, script


def kept(block: str) -> str:
    """Return a block without the commands that do not run here."""
    lines = block.replace("\\\n", " ").splitlines()
    first = re.compile(rf"\W*(\w+=\S+\s+|\w+=\$\()*({'|'.join(LEFT_OUT)})")
    ours = (line for line in lines if NEEDS_A_CLUSTER.search(line))
    return "\n".join(line for line in ours if not first.match(line))


@dataclass(frozen=True)
class House:
    """A cluster, and the stores that the pages name."""

    here: Cluster
    shared: Path
    """What every machine sees, and RAYBD_STORE of the machines."""
    bucket: str

    def translated(self, script: str, name_in_bucket: str) -> str:
        """Return a script with the addresses and stores of the test."""
        names = {
            "http://127.0.0.1:8265": self.here.dashboard,
            "192.0.2.10:6379": self.here.address,
            "HEAD:6379": self.here.address,
            "/shared/results": str(self.shared),
            "s3://bucket/results": f"{self.bucket}/{name_in_bucket}",
            "--store URL": f"--store {self.shared}",
        }
        for name, stands_for in names.items():
            script = script.replace(name, stands_for)
        return script


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, s3_url: str) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    machine = {"RAYBD_STORE": str(folder / "shared")}
    with cluster(folder, cpus=2, machine=machine) as here:
        yield House(here, folder / "shared", s3_url)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy code and configs, the experiments cut to one small cell."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPO / "raybd", tmp_path / "raybd", ignore=ignored)
    for path in (REPO / "configs").rglob("*.yaml"):
        asked = yaml.safe_load(path.read_text(encoding="utf-8"))
        copy = tmp_path / path.relative_to(REPO)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(yaml.safe_dump(cut_sweep(asked) if "search" in asked else cut(asked)))
    return tmp_path


def cut(asked: dict[str, Any]) -> dict[str, Any]:
    """Return an experiment of one attack and one detector on a few digits; its workers stay."""
    gone = ("repairs", "training_defenses", "scanners", "analyses", "removal")
    asked = {name: value for name, value in asked.items() if name not in gone}
    small = {
        "datasets": [DIGITS],
        "attacks": [{"kind": "badnets"}],
        "trainers": [{"kind": "supervised", **RECIPE}],
        "detectors": [{"kind": "spectral"}],
    }
    return {**asked, **small}


def cut_sweep(asked: dict[str, Any]) -> dict[str, Any]:
    """Return a sweep of one trial; it needs all digits for its canaries."""
    experiment = {**asked["experiment"], "trainers": [{"kind": "supervised", **RECIPE}]}
    return {**asked, "experiment": experiment, "trials": 1}


BLOCKS = list({script: (page, script) for page, script in blocks()}.values())
"""Each script once: a cloud and Kubernetes are told the same."""


def test_every_way_to_a_cluster_is_told_and_run() -> None:
    told = "\n".join(script for _, script in BLOCKS)
    for way in ("raybd run", "raybd sweep", "raybd submit", "ray job submit", "raybd doctor"):
        assert way in told
    assert "s3://bucket" in told
    assert {page for page, _ in BLOCKS} >= {"README.md", "cluster/README.md"}


@pytest.mark.parametrize(("page", "script"), BLOCKS, ids=[page for page, _ in BLOCKS])
def test_a_block_runs_on_a_cluster(
    page: str, script: str, house: House, checkout: Path, s3_url: str
) -> None:
    shutil.rmtree(house.shared, ignore_errors=True)
    environment = house.here.env | {
        # Commands that name no address find this head.
        "RAY_ADDRESS": house.here.address,
        "RAY_API_SERVER_ADDRESS": house.here.dashboard,
        "PYTHONPATH": str(checkout),
        "OMP_NUM_THREADS": "1",
    }
    environment |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", house.translated(script, checkout.name)],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"

    runs = re.findall(r"raybd (run|sweep|submit) (?!.*--dry-run)", script)
    places = (str(checkout / "results"), str(house.shared), f"{s3_url}/{checkout.name}")
    cells = [status for place in places for status in Store(place).cells()["status"]]
    assert bool(cells) == bool(runs), f"{script}\n{done.stdout}{done.stderr}"
    assert set(cells) <= {"ok"}

    # The line that a run prints last is one that a reader copies.
    printed = re.findall(r"^scores:  import pandas as pd; (.*)$", done.stdout + done.stderr, re.M)
    assert bool(printed) == ("raybd run" in script and bool(cells))
    for line in printed:
        assert len(eval(line, {"pd": pd})) > 0, line


def test_a_data_set_is_scanned_on_a_cluster(house: House, tmp_path: Path) -> None:
    write_folders(tmp_path, patched=60)
    options = ["--trusted", tmp_path / "trusted", "--budget", "0.001"]
    places = ["--store", tmp_path / "store", "--out", tmp_path / "out"]
    code, out, err = house.here.raybd(
        "scan", tmp_path / "data", *options, *places, "--address", house.here.address
    )
    assert code == 0, err
    assert "images look poisoned" in out
    assert len(pd.read_csv(tmp_path / "out" / "suspects.csv")) == SUSPECTS
