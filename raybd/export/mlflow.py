"""Runs of an MLflow server, through its REST API: https://mlflow.org/docs/latest/rest-api.html.

The library of MLflow is not needed.
"""

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raybd.export.runs import Run
from raybd.types.errors import UserError

CELL_TAG = "raybd.cell"
"""Tag with the id of the cell of a run."""
MAX_PARAMETERS = 100
"""Parameters that one request can log; a limit of MLflow."""
MAX_VALUE = 500
"""Letters of a parameter's value; older servers take no more."""
SECONDS = 30.0
"""How long a request may take."""


@dataclass(frozen=True)
class MlflowServer:
    """A server at http://HOST:PORT. Raises UserError (exit code 3) if it does not do its part.

    MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, are sent.
    """

    uri: str

    def log(self, runs: Sequence[Run]) -> int:
        """Log those runs that the server does not have; return how many these were."""
        logged = 0
        for experiment in dict.fromkeys(run.experiment for run in runs):
            id_ = self._experiment(experiment)
            known = self._known_cells(id_)
            for run in runs:
                if run.experiment == experiment and run.cell not in known:
                    self._log_run(id_, run)
                    logged += 1
        return logged

    def _experiment(self, name: str) -> str:
        quoted = urllib.parse.urlencode({"experiment_name": name})
        found = self._ask("GET", f"experiments/get-by-name?{quoted}", missing_ok=True)
        if found is None:
            return str(self._ask("POST", "experiments/create", {"name": name})["experiment_id"])
        return str(found["experiment"]["experiment_id"])

    def _known_cells(self, experiment: str) -> set[str]:
        """Return the cells that have a finished run there; a half-logged one is logged again."""
        cells: set[str] = set()
        page: dict[str, Any] = {}
        while True:
            asked = {"experiment_ids": [experiment], "max_results": 1000, **page}
            found = self._ask("POST", "runs/search", asked)
            for run in found.get("runs", []):
                tags = {tag["key"]: tag["value"] for tag in run.get("data", {}).get("tags", [])}
                if run["info"].get("status") != "RUNNING" and CELL_TAG in tags:
                    cells.add(tags[CELL_TAG])
            if not found.get("next_page_token"):
                return cells
            page = {"page_token": found["next_page_token"]}

    def _log_run(self, experiment: str, run: Run) -> None:
        started = run.finished_at_ms - round(run.seconds * 1000)
        created = self._ask(
            "POST",
            "runs/create",
            {
                "experiment_id": experiment,
                "run_name": run.name,
                "start_time": started,
                "tags": [{"key": CELL_TAG, "value": run.cell}],
            },
        )
        id_ = created["run"]["info"]["run_id"]

        metrics = [
            {"key": name, "value": value, "timestamp": run.finished_at_ms, "step": 0}
            for name, value in run.metrics.items()
        ]
        parameters = [
            {"key": name, "value": value[:MAX_VALUE]} for name, value in run.parameters.items()
        ]
        self._ask("POST", "runs/log-batch", {"run_id": id_, "metrics": metrics})
        for start in range(0, len(parameters), MAX_PARAMETERS):
            part = parameters[start : start + MAX_PARAMETERS]
            self._ask("POST", "runs/log-batch", {"run_id": id_, "params": part})
        ended = {"status": "FAILED" if run.failed else "FINISHED", "end_time": run.finished_at_ms}
        self._ask("POST", "runs/update", {"run_id": id_, **ended})

    def _ask(
        self,
        how: str,
        path: str,
        content: Mapping[str, Any] | None = None,
        missing_ok: bool = False,
    ) -> Any:
        """Return the answer of the server; None for what does not exist, if `missing_ok`."""
        # urllib also opens files.
        if not self.uri.startswith(("http://", "https://")):
            raise self._unusable("it is no http:// or https:// address")
        request = urllib.request.Request(
            f"{self.uri.rstrip('/')}/api/2.0/mlflow/{path}",
            data=json.dumps(content).encode() if content is not None else None,
            headers={"Content-Type": "application/json", **_credentials()},
            method=how,
        )
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            told = error.read().decode(errors="replace")
            if missing_ok and error.code == 404:
                return None
            raise self._unusable(f"{error.code} {error.reason}: {told}") from error
        except (OSError, ValueError) as error:
            raise self._unusable(str(error)) from error

    def _unusable(self, reason: str) -> UserError:
        return UserError(
            f"the MLflow server at {self.uri} can't be used: {reason}",
            "Give the address of a server (`mlflow server` starts one), like "
            "http://127.0.0.1:5000, and its credentials in MLFLOW_TRACKING_TOKEN.",
            exit_code=3,
        )


def _credentials() -> dict[str, str]:
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if user is None:
        return {}
    pair = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
    return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
