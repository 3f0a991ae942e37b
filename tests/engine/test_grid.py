"""Grids, groups, faults and jobs on a real Ray cluster. Every test runs the real commands."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from raybd.cells import run as stages
from raybd.plan import file as experiment_file
from raybd.results.store import Store
from tests.clusters import Cluster, default_interrupt
from tests.paths import REPO

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

TINY: dict[str, Any] = {
    "name": "tiny",
    "datasets": [{"kind": "digits", "limit": 600, "test_limit": 100, "clean": 60}],
    "attacks": [{"kind": "none"}, {"kind": "badnets"}, {"kind": "sig", "rate": 0.5}],
    "trainers": [
        {
            "kind": "supervised",
            "network": {"kind": "small_cnn", "width": 8},
            "epochs": 2,
            "lr": 0.05,
            "augment": "none",
        }
    ],
    "detectors": [{"kind": "spectral"}, {"kind": "strip", "overlays": 3}],
    "repairs": [{"kind": "fine_tune", "epochs": 2}],
    "removal": True,
}


def start(config: dict[str, Any], folder: Path, *args: str, **env: str) -> subprocess.Popen[str]:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [
        sys.executable,
        "-m",
        "raybd",
        "run",
        str(path),
        "--store",
        str(folder / "results"),
        *args,
    ]
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RAY_ADDRESS", "RAYBD_STORE")
    }
    return subprocess.Popen(
        command,
        cwd=REPO,
        env=clean | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=default_interrupt,  # noqa: PLW1509
    )


def run(config: dict[str, Any], folder: Path, *args: str, **env: str) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a run that starts Ray on this machine."""
    process = start(config, folder, *args, **env)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def run_on(here: Cluster, config: dict[str, Any], folder: Path, *args: str) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a run that joins a cluster."""
    return run(config, folder, "--address", here.address, *args, **here.env)


def check_whole(store: Store, cells: int) -> pd.DataFrame:
    """Every cell has its row, and every score row is there once."""
    frame = store.cells()
    assert len(frame) == cells
    assert frame["cell"].is_unique
    scores = store.scores()
    counts = scores.groupby("cell", observed=True).size()
    wanted = frame[frame["n_scores"].notna()].set_index("cell")["n_scores"].astype(int)
    assert counts.to_dict() == wanted.to_dict()
    assert not scores.duplicated(["cell", "pool", "index", "role"]).any()
    return frame


def test_a_grid_runs_once_and_then_never_again(tmp_path: Path, shared_cluster: Cluster) -> None:
    config = {
        **TINY,
        "detectors": [*TINY["detectors"], {"kind": "tests.methods.raises", "name": "broken"}],
    }
    code, out, err = run_on(shared_cluster, config, tmp_path, "--json")
    assert code == 1, err
    rows = {(row["attack"], row["defense"]): row for row in json.loads(out)}
    assert len(rows) == 3 * 5
    assert {row["status"] for (_, defense), row in rows.items() if defense == "broken"} == {
        "failed",
        "infeasible",
    }
    assert "this detector is broken" in rows["badnets", "broken"]["error"]
    assert {row["status"] for (attack, _), row in rows.items() if attack == "sig"} == {"infeasible"}
    healthy = [
        row for (attack, defense), row in rows.items() if attack != "sig" and defense != "broken"
    ]
    assert {row["status"] for row in healthy} == {"ok"}

    store = Store(str(tmp_path / "results"))
    traceback = store.read(f"errors/{rows['badnets', 'broken']['cell']}.txt").decode()
    assert "tests/methods/raises.py" in traceback
    frame = check_whole(store, 15).set_index(["attack", "defense"])
    assert frame.loc[("badnets", "spectral"), "n_scores"] == 600
    assert frame.loc[("badnets", "strip"), "n_scores"] == 100 + 90
    assert frame.loc[("none", "strip"), "n_scores"] == 100
    assert frame.loc[("none", "spectral"), "fpr"] == pytest.approx(0.15, abs=0.02)
    assert pd.isna(frame.loc[("none", "spectral"), "auroc"])
    assert frame.loc[("badnets", "spectral"), "defended_clean_accuracy"] > 0
    assert frame.loc[("badnets", "fine_tune"), "defended_attack_success"] >= 0
    assert (
        (frame.loc["badnets"].query("status == 'ok'")[["seconds", "peak_memory_bytes"]] > 0)
        .all()
        .all()
    )
    victims = {json.loads(config)["stages"]["victim"] for config in frame.loc["badnets", "config"]}
    assert len(victims) == 1
    assert len(store.files("artifacts/victim/*/manifest.json")) == 2

    # Ray changes no number: the same cell in this process, with one thread as in a 1-CPU task.
    cell = next(
        cell
        for cell in experiment_file.parse(TINY).cells()
        if (cell.attack.name, cell.defense_name) == ("badnets", "spectral")
    )
    torch.set_num_threads(1)
    alone = stages.run_cell(cell, Store(str(tmp_path / "alone")))
    for number in ("clean_accuracy", "attack_success", "auroc", "tpr", "defended_clean_accuracy"):
        assert alone[number] == pytest.approx(
            frame.loc[("badnets", "spectral"), number], abs=1e-6
        ), number

    began = time.monotonic()
    code, out, err = run(TINY, tmp_path)
    assert code == 0
    assert time.monotonic() - began < 15
    assert "0 to run" in err


def test_damage_in_the_store_is_named_set_aside_and_computed_again(
    tmp_path: Path, shared_cluster: Cluster
) -> None:
    config = {**TINY, "attacks": [{"kind": "badnets"}], "removal": False, "repairs": []}
    assert run_on(shared_cluster, config, tmp_path)[0] == 0
    store = Store(str(tmp_path / "results"))
    before = check_whole(store, 3)
    victim = store.files("artifacts/victim/*/tensors.safetensors")[0]
    store.write(victim, store.read(victim)[:-1] + b"?")
    score = store.files("scores/*/*/defense=strip/*.parquet")[0]
    store.write(score, store.read(score)[:100])
    code, _, err = run_on(shared_cluster, config, tmp_path)
    assert code == 0
    assert str(Path(victim).parent) in err
    assert score in err
    assert "set aside" in err
    after = check_whole(store, 3)
    assert after["clean_accuracy"].tolist() == before["clean_accuracy"].tolist()
    assert len(store.files("damaged/artifacts/victim/*/*")) == 2


def test_a_killed_driver_loses_nothing(tmp_path: Path) -> None:
    config = {**TINY, "attacks": [{"kind": "none"}, {"kind": "badnets"}]}
    process = start(config, tmp_path)
    store = Store(str(tmp_path / "results"))
    deadline = time.monotonic() + 120
    while not store.files("cells/*.parquet"):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.communicate()
    done = {
        path: (tmp_path / "results" / path).stat().st_mtime_ns
        for path in store.files("artifacts/*/*/manifest.json")
    }
    assert len(store.files("cells/*.parquet")) < 8
    time.sleep(3)  # the cluster of the dead driver stops by itself
    code, _, err = run(config, tmp_path)
    assert code == 0, err
    check_whole(store, 8)
    assert all((tmp_path / "results" / path).stat().st_mtime_ns == at for path, at in done.items())


def test_a_stage_whose_worker_dies_goes_on_from_its_checkpoint(
    tmp_path: Path, shared_cluster: Cluster
) -> None:
    trace = tmp_path / "trace"
    trainer = {
        "kind": "tests.methods.dies_once",
        "trace": str(trace),
        "network": "small_cnn",
        "epochs": 4,
        "batch_size": 100,
    }
    config = {
        **TINY,
        "attacks": [{"kind": "badnets"}],
        "trainers": [trainer],
        "detectors": [],
        "repairs": [],
    }
    often = {**config, "resources": {"checkpoint_seconds": 0}}
    code, _, err = run_on(shared_cluster, often, tmp_path)
    assert code == 0, err
    steps = trace.read_text().splitlines()
    died = steps.index("died")
    assert died == 2 * 6 + 1
    assert len(steps) - died - 1 == 2 * 6  # epochs 3 and 4; the first two were not run again
    assert not Store(str(tmp_path / "results")).files("checkpoints/*/*")


@pytest.mark.parametrize("asked", [{"gpus_per_worker": 64}, {"workers": 500}])
def test_more_than_the_cluster_has_is_refused_at_once(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    began = time.monotonic()
    code, _, err = run({**TINY, "resources": asked}, tmp_path)
    assert code == 3
    assert time.monotonic() - began < 60
    assert "the cluster has 1 node" in err
    assert "Lower resources.workers" in err


def test_two_ray_train_workers_find_what_one_finds(tmp_path: Path, shared_cluster: Cluster) -> None:
    trainer = {
        "kind": "supervised",
        "network": "small_cnn",
        "epochs": 6,
        "lr": 0.05,
        "augment": "none",
        "precision": "fp32",
    }
    config = {
        **TINY,
        "datasets": [{"kind": "digits", "clean": 0.1}],
        "attacks": [{"kind": "badnets"}],
        "trainers": [trainer],
        "detectors": [{"kind": "spectral", "reference": "trusted"}],
        "repairs": [],
        "removal": False,
    }
    in_two = {**config, "resources": {"workers": 2}}
    code, out, err = run_on(shared_cluster, in_two, tmp_path, "--json")
    assert code == 0, err
    two = {row["defense"]: row for row in json.loads(out)}
    assert {row["workers"] for row in two.values()} == {2}
    alone = Store(str(tmp_path / "alone"))
    one = {
        row["defense"]: row
        for row in (stages.run_cell(cell, alone) for cell in experiment_file.parse(config).cells())
    }
    assert two["none"]["clean_accuracy"] == pytest.approx(one["none"]["clean_accuracy"], abs=0.02)
    assert two["none"]["attack_success"] == pytest.approx(one["none"]["attack_success"], abs=0.03)
    assert two["spectral"]["auroc"] == pytest.approx(one["spectral"]["auroc"], abs=0.02)


def test_two_workers_share_a_store_on_object_storage(tmp_path: Path, s3_url: str) -> None:
    config = {
        **TINY,
        "attacks": [{"kind": "badnets"}],
        "detectors": [{"kind": "spectral"}],
        "repairs": [],
        "removal": False,
    }
    url = f"{s3_url}/engine"
    shared = {"workers": 2, "detectors": {"workers": 1}}  # one group is enough
    code, _, err = run({**config, "resources": shared}, tmp_path, "--store", url)
    assert code == 0, err
    check_whole(Store(url), 2)
    assert not Store(url).files("train/*")


def test_the_doctor_finds_nothing_wrong_and_then_the_damage(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "results"))
    store.save("victim", "k", {"a": torch.zeros(8)}, {})
    command = [sys.executable, "-m", "raybd", "doctor", "--store", store.url, "--json"]
    path, codes = "artifacts/victim/k/tensors.safetensors", []
    for damage in (False, True):
        if damage:
            store.write(path, store.read(path)[:-1] + b"?")
        done = subprocess.run(
            command, cwd=REPO, capture_output=True, text=True, timeout=120, check=False
        )
        codes.append(done.returncode)
        found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert codes == [0, 3]
    assert "1 node" in found["cluster"]["found"]
    assert found["integrity"]["hint"]


def test_ctrl_c_prints_the_command_that_goes_on(tmp_path: Path) -> None:
    process = start({**TINY, "attacks": [{"kind": "badnets"}]}, tmp_path)
    store, deadline = Store(str(tmp_path / "results")), time.monotonic() + 120
    while not store.files("artifacts/poison/*/manifest.json"):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"raybd run {tmp_path}/config.yaml --store {tmp_path}/results" in err


def test_ray_job_submit_fills_the_store(tmp_path: Path, shared_cluster: Cluster) -> None:
    env = shared_cluster.env
    sets = [
        "--set",
        "attacks=[{kind: badnets}]",
        "--set",
        "trainers.0.epochs=2",
        "--set",
        "detectors=[{kind: spectral}]",
    ]
    sets += ["--set", "repairs=[]", "--set", "removal=false"]
    submit = [
        "ray",
        "job",
        "submit",
        "--address",
        shared_cluster.dashboard,
        "--working-dir",
        str(REPO),
        "--",
    ]
    job = ["python", "-m", "raybd", "run", "configs/quickstart.yaml"]
    command = [*submit, *job, "--store", str(tmp_path / "results"), *sets]
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=240, check=False
        )
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            break
        time.sleep(1)  # the head answers a little before it can take jobs
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    check_whole(Store(str(tmp_path / "results")), 2)

    joined = {**TINY, "attacks": [{"kind": "badnets"}], "detectors": [], "repairs": []}
    code, _, err = run_on(shared_cluster, joined, tmp_path)
    assert code == 0, err

    refused = subprocess.run(
        [*submit, *job, "--store", "results"],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert refused.returncode != 0
    assert "is relative, and inside a Ray job it would vanish" in refused.stdout + refused.stderr
