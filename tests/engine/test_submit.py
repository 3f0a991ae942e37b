"""`raybd submit`: the package, the log over several connections, the exit code, and real jobs."""

import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from raybd.engine.cluster.submit.exit_code import exit_code
from raybd.engine.cluster.submit.job_log import JobLog
from raybd.engine.cluster.submit.jobs import Jobs
from raybd.engine.cluster.submit.package import LIMIT_MB, job_package
from raybd.engine.cluster.submit.request import job_request
from raybd.results.store import Store
from raybd.types.errors import UserError
from tests.clusters import Cluster

CONFIG = """
name: tiny
datasets: [{kind: digits, limit: 300, test_limit: 100, clean: 60}]
attacks: [{kind: badnets}]
trainers: [{kind: supervised, network: {kind: small_cnn, width: 8}, epochs: 1, augment: none}]
detectors: [{kind: spectral}, {kind: tests.methods.raises, name: broken}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return path


def test_a_package_holds_the_code_the_config_and_the_users_own_methods(config: Path) -> None:
    said: list[str] = []
    with job_package(job_request(config, "/shared/r"), LIMIT_MB, said.append) as folder:
        held = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "tiny.yaml",
        "raybd/__main__.py",
        "raybd/report/style.css",
        "tests/methods/raises.py",
    } <= held
    assert not any("__pycache__" in path for path in held)
    assert said[0].startswith("package: ")


def test_a_package_above_the_limit_is_refused_with_its_largest_file(config: Path) -> None:
    # Just below the largest experiment file that is read.
    config.write_text(CONFIG + "#" * 250_000)
    with (
        pytest.raises(UserError, match=r"largest files: tiny.yaml \(0.3 MB\)"),
        job_package(job_request(config, None), 0.2, print),
    ):
        pass


def test_the_id_depends_on_what_is_asked_and_where_it_goes(config: Path) -> None:
    asked = job_request(config, "/shared/r")
    assert asked.id == job_request(config, "/shared/r").id
    assert (
        len(
            {
                asked.id,
                job_request(config, "/other").id,
                job_request(config, "/shared/r", ["attacks.0.rate=0.2"]).id,
            }
        )
        == 3
    )


def test_a_relative_store_is_refused(config: Path) -> None:
    with pytest.raises(
        UserError, match="store 'results' is relative, and inside a Ray job it would vanish"
    ):
        job_request(config, "results")


def test_a_job_reads_the_data_of_the_folder_that_it_was_submitted_from(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYBD_DATA", "data")
    assert job_request(config, None).environment["RAYBD_DATA"] == str(tmp_path / "data")


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8265", "ray://127.0.0.1:10001", "http://127.0.0.1:1", "http://h:port"]
)
def test_an_address_that_takes_no_jobs_is_exit_code_3(address: str) -> None:
    with pytest.raises(UserError) as error:
        Jobs(address)
    assert error.value.exit_code == 3


def test_each_part_of_a_log_is_shown_once_over_several_connections() -> None:
    shown: list[str] = []
    log = JobLog(shown.append)
    for connection in (["one\n", "two\n"], ["one\ntw"], ["one\ntwo\nthr", "ee\n"]):
        log.reconnected()
        for text in connection:
            log.receive(text)
    assert "".join(shown) == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 1, 1),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.FAILED, None, 3),
        (JobStatus.STOPPED, 130, 130),
    ],
)
def test_the_exit_code_is_that_of_the_run(status: JobStatus, driver: int | None, code: int) -> None:
    info = SimpleNamespace(status=status, driver_exit_code=driver, message="")
    assert exit_code(info, lambda _: None) == code


@pytest.mark.ray
@pytest.mark.timeout(420)
def test_a_job_is_followed_joined_and_resumed(
    tmp_path: Path, config: Path, shared_cluster: Cluster
) -> None:
    store = Store(str(tmp_path / "results"))
    command = ["submit", config, "--address", shared_cluster.dashboard, "--store", store.url]
    code, job, err = shared_cluster.raybd(*command, "--no-wait")
    assert code == 0, err
    code, out, err = shared_cluster.raybd(*command)  # the same while it runs: joined
    assert "nothing was submitted" in err
    assert code == 1, out + err  # as `raybd run` says of a failed cell
    assert "this detector is broken" in out
    assert len(store.cells()) == 3
    done = {
        path: Path(store.at(path)).stat().st_mtime_ns
        for path in store.files("artifacts/*/*/manifest.json")
    }

    code, again, err = shared_cluster.raybd(*command, "--no-wait")
    assert again.strip() == f"{job.strip()}-2", err
    code, out, err = shared_cluster.raybd(
        "submit", "--follow", again.strip(), "--address", shared_cluster.dashboard
    )
    assert code == 1, out + err
    assert all(Path(store.at(path)).stat().st_mtime_ns == at for path, at in done.items())


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_ctrl_c_detaches_and_a_stopped_job_is_not_a_success(
    tmp_path: Path, config: Path, shared_cluster: Cluster
) -> None:
    command = [
        "submit",
        config,
        "--address",
        shared_cluster.dashboard,
        "--store",
        tmp_path / "results",
    ]
    follower = shared_cluster.start(*command, "--set", "trainers.0.epochs=100000")
    assert follower.stdout is not None
    while "cells" not in follower.stdout.readline():
        assert follower.poll() is None
    follower.send_signal(signal.SIGINT)
    _, err = follower.communicate(timeout=60)
    assert follower.returncode == 130
    assert "ray job stop" in err and "raybd submit --follow" in err
    job = err.split("detached; job ")[1].split()[0]
    follower = shared_cluster.start(
        "submit", "--follow", job, "--address", shared_cluster.dashboard
    )
    code, _, err = shared_cluster.raybd(
        "submit", "--follow", "no-such-job", "--address", shared_cluster.dashboard
    )
    assert code == 3 and "knows no job 'no-such-job'" in err
    stop = ["ray", "job", "stop", "--address", shared_cluster.dashboard, job]
    subprocess.run(stop, env=shared_cluster.env, check=True, capture_output=True, timeout=60)
    assert follower.wait(timeout=120) == 130
