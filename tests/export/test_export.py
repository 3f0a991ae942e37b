"""Cells become runs of MLflow and TensorBoard, each once, with numbers and fields."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from raybd.export.mlflow import CELL_TAG, MAX_PARAMETERS
from raybd.export.runs import runs_of
from raybd.results.store import Store
from tests.cli.in_process import raybd
from tests.results.test_store import row

CONFIG = {"attack": {"kind": "badnets", "rate": 0.1, "labels": {"map": "all_to_one"}}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    many = {f"field{number}": number for number in range(150)}
    config = json.dumps({**CONFIG, "trainer": many})
    store.write_cell(row("c1", auroc=0.9, seconds=3.0, config=config))
    store.write_cell(row("c2", seed=1, auroc=0.8, seconds=2.0, config=config))
    store.write_cell(row("c3", seed=2, status="failed", error="broken", config=config))
    store.write_cell(row("other", experiment="y", config=config))
    return store


class Server(ThreadingHTTPServer):
    """The part of MLflow's REST API that is used, as its documentation describes it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.fails_at: str | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, path: str, query: dict[str, list[str]], asked: Any) -> tuple[int, Any]:
        if path == self.fails_at:
            return 500, {"error_code": "INTERNAL_ERROR", "message": "out of order"}
        if path == "experiments/get-by-name":
            id_ = self.experiments.get(query["experiment_name"][0])
            return (200, {"experiment": {"experiment_id": id_}}) if id_ else (404, {})
        answers = {
            "experiments/create": self._create_experiment,
            "runs/create": self._create_run,
            "runs/log-batch": self._log,
            "runs/update": self._update,
            "runs/search": self._search,
        }
        return 200, answers[path](asked)

    def _create_experiment(self, asked: Any) -> Any:
        self.experiments[asked["name"]] = f"experiment{len(self.experiments)}"
        return {"experiment_id": self.experiments[asked["name"]]}

    def _create_run(self, asked: Any) -> Any:
        id_ = f"run{len(self.runs)}"
        self.runs[id_] = {**asked, "status": "RUNNING", "metrics": {}, "params": {}}
        return {"run": {"info": {"run_id": id_}}}

    def _log(self, asked: Any) -> Any:
        assert len(asked.get("params", [])) <= 100 and len(asked.get("metrics", [])) <= 1000
        for kind in ("metrics", "params"):
            found = {one["key"]: one["value"] for one in asked.get(kind, [])}
            self.runs[asked["run_id"]][kind] |= found
        return {}

    def _update(self, asked: Any) -> Any:
        self.runs[asked["run_id"]] |= asked
        return {}

    def _search(self, asked: Any) -> Any:
        # A page has one run, so that the next one has to be asked for.
        mine = [r for r in self.runs.values() if r["experiment_id"] in asked["experiment_ids"]]
        start = int(asked.get("page_token", 0))
        page = [{"info": {"status": r["status"]}, "data": {"tags": r["tags"]}} for r in mine]
        more = {"next_page_token": str(start + 1)} if start + 1 < len(mine) else {}
        return {"runs": page[start : start + 1], **more}


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def _do(self) -> None:
        parts = urlsplit(self.path)
        assert parts.path.startswith("/api/2.0/mlflow/")
        length = int(self.headers.get("Content-Length", 0))
        asked = json.loads(self.rfile.read(length) or b"null")
        path = parts.path.removeprefix("/api/2.0/mlflow/")
        code, told = self.server.answer(path, parse_qs(parts.query), asked)
        data = json.dumps(told).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _do

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_run_has_the_fields_and_the_numbers_of_its_cell(store: Store) -> None:
    runs = {run.cell: run for run in runs_of(store)}
    assert runs.keys() == {"c1", "c2", "c3", "other"}
    one = runs["c1"]
    assert one.metrics == {"auroc": 0.9, "seconds": 3.0}
    assert one.parameters["attack.labels.map"] == "all_to_one"
    assert one.parameters["attack.rate"] == "0.1"
    assert one.parameters["seed"] == "0"
    assert (one.failed, runs["c3"].failed) == (False, True)
    assert [run.cell for run in runs_of(store, "y")] == ["other"]


def test_mlflow_gets_each_cell_once(
    store: Store,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ("export", "mlflow", store.url, "--tracking-uri", server.uri)
    assert raybd(monkeypatch, *command) == 0
    assert "4 of 4 cells were logged" in capsys.readouterr().err
    assert server.experiments.keys() == {"x", "y"}
    by_cell = {run["tags"][0]["value"]: run for run in server.runs.values()}
    assert by_cell.keys() == {"c1", "c2", "c3", "other"}
    assert by_cell["c1"]["tags"][0]["key"] == CELL_TAG
    assert by_cell["c1"]["metrics"] == {"auroc": 0.9, "seconds": 3.0}
    assert by_cell["c1"]["params"]["attack.kind"] == "badnets"
    assert len(by_cell["c1"]["params"]) > MAX_PARAMETERS
    assert by_cell["c1"]["end_time"] - by_cell["c1"]["start_time"] == 3000
    assert [by_cell[cell]["status"] for cell in ("c1", "c3")] == ["FINISHED", "FAILED"]

    assert raybd(monkeypatch, *command) == 0
    assert "0 of 4 cells were logged" in capsys.readouterr().err
    assert len(server.runs) == 4


def test_a_run_that_was_logged_by_half_is_logged_again(
    store: Store, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fails_at = "runs/update"
    command = ("export", "mlflow", store.url, "--tracking-uri", server.uri, "--experiment", "y")
    assert raybd(monkeypatch, *command) == 3
    server.fails_at = None
    assert raybd(monkeypatch, *command) == 0
    assert [run["status"] for run in server.runs.values()] == ["RUNNING", "FINISHED"]


def test_a_server_that_does_not_answer_is_two_lines(
    store: Store,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for uri in ("http://127.0.0.1:1", "nonsense", server.uri):
        server.fails_at = "experiments/get-by-name"
        assert raybd(monkeypatch, "export", "mlflow", store.url, "--tracking-uri", uri) == 3
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 2
        assert f"the MLflow server at {uri} can't be used" in told[0]
    assert raybd(monkeypatch, "export", "mlflow", store.url + "x", "--tracking-uri", uri) == 2
    assert "holds no cells" in capsys.readouterr().err


def test_tensorboard_gets_each_cell_once(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ("export", "tensorboard", store.url, "--out", tmp_path / "events")
    for count in (4, 0):
        assert raybd(monkeypatch, *command) == 0
        assert f"{count} of 4 cells were written" in capsys.readouterr().err
    folders = sorted(path.name for path in (tmp_path / "events/x").iterdir())
    assert folders == ["c1", "c2", "c3"]
    (events,) = (tmp_path / "events/x/c1").rglob("events.out.tfevents.*")
    content = events.read_bytes()
    assert b"auroc" in content and b"attack.kind" in content and b"badnets" in content
