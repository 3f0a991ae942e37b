"""Faults in what a user is told: by a plan, an override, a table, a log, an exported run."""

from tests.mutants.fault import Fault

WANET = "raybd/attacks/data/wanet.py"
PLAN_TESTS = ("tests/plan/test_found_by_the_plan.py",)

FAULTS = (
    Fault(
        "lease-read-whole",
        "raybd/results/lease.py",
        "return store.read_if_there(path, MAX_LEASE_BYTES)",
        "return store.read_if_there(path)",
        "a lease of a terabyte is read",
        ("tests/results/test_hostile_stores.py", "-k", "lease"),
    ),
    Fault(
        "journal-tells-no-stages",
        "raybd/engine/tune/study.py",
        "in identity_of(sweep).items():\n",
        'in [("definition", sweep.definition)]:\n',
        "a damaged note hides that the data changed",
        ("tests/sweeps/test_identity.py",),
    ),
    Fault(
        "verdict-of-any-shape",
        "raybd/cells/judging.py",
        "    check_verdict(name, verdict, len(pool.suspects))\n",
        "",
        "scores of another shape end in an error of torch",
        ("tests/cells/test_promises.py",),
    ),
    Fault(
        "covers-found-by-the-run",
        WANET,
        "        check_cross(y_N, rows, self.cross_ratio * self.rate)\n",
        "",
        "noise that no images are left for fails in each cell",
        PLAN_TESTS,
    ),
    Fault(
        "canaries-found-by-the-run",
        "raybd/plan/experiment.py",
        "            self.canaries.count(len(opened(dataset).labels_N), opened(dataset).trusted)\n",
        "            pass\n",
        "canaries without trusted images fail in each cell",
        PLAN_TESTS,
    ),
    Fault(
        "override-of-the-last-entry",
        "raybd/plan/overrides.py",
        "part.isascii() and part.isdigit() and int(part) < len(entries)",
        "part.removeprefix('-').isdigit() and int(part) < len(entries)",
        "--set attacks.-1 changes the last entry",
        ("tests/plan/test_overrides.py",),
    ),
    Fault(
        "fold-of-the-lowest",
        "raybd/cli/cells_table.py",
        'return f"{number(found.value)} [{low},{high}]"',
        'return f"{number(found.low)} [{low},{high}]"',
        "the table shows the lower end as the mean",
        ("tests/cli/test_cells_table.py",),
    ),
    Fault(
        "progress-says-all-again",
        "raybd/engine/grid/progress.py",
        "if self._said.get(key) != state]",
        "]",
        "a log repeats what it said",
        ("tests/engine/test_progress.py",),
    ),
    Fault(
        "token-not-asked-about",
        "raybd/engine/cluster/token_check.py",
        "if error.code() is grpc.StatusCode.UNAUTHENTICATED:",
        "if error.code() is grpc.StatusCode.OK:",
        "a wrong token is told by Ray, again and again",
        ("tests/engine/test_refused.py", "-k", "token"),
    ),
    Fault(
        "export-logs-again",
        "raybd/export/mlflow.py",
        "if run.experiment == experiment and run.cell not in known:",
        "if run.experiment == experiment:",
        "a second export doubles the runs",
        ("tests/export/test_export.py",),
    ),
)
