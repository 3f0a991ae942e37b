"""Faults in the board, in what it compares, and in the check of a bundle."""

from tests.mutants.fault import Fault

MATRIX = "raybd/report/board/matrix.py"
RANKING = "raybd/report/board/ranking.py"
ROWS = "raybd/report/board/rows.py"
PAYLOAD = "raybd/report/board/payload.py"
EFFECT = "raybd/metrics/effectiveness.py"
PAIRS = "raybd/metrics/statistics/differences.py"
CHECK = "raybd/zoo/check.py"
PRIVATE = "raybd/zoo/private.py"
IN_RANKING = ("tests/report/board/test_ranking.py",)
IN_ROWS = ("tests/report/board/test_rows.py",)
IN_PAGE = ("tests/report/board/test_page.py",)
IN_EFFECT = ("tests/metrics/test_effectiveness.py",)
IN_PAIRS = ("tests/metrics/statistics/test_differences.py",)
IN_ZOO = ("tests/zoo/test_bundle.py",)

FAULTS = (
    Fault(
        "board-neutral-failure",
        MATRIX,
        'mean = float(np.mean(values)) if values and not failed else float("nan")',
        "mean = float(np.mean(values)) if values else 0.5\n    failed = False",
        "a crash counts as a defense that does nothing",
        IN_RANKING,
    ),
    Fault(
        "board-counts-failed-attacks",
        MATRIX,
        'seeds = {cell["seed"] for cell in row.cells if not attack_worked(cell)}',
        'seeds = {cell["seed"] for cell in row.cells if cell is None}',
        "a victim without a backdoor is a problem",
        IN_RANKING,
    ),
    Fault(
        "board-own-seeds",
        MATRIX,
        "part = _on_shared_seeds(full.of(sorted(kept)), track)",
        "part = full.of(sorted(kept))",
        "methods are compared on other seeds",
        IN_RANKING,
    ),
    Fault(
        "board-ranks-oracles",
        MATRIX,
        "if own == track.name and not row.oracle and not row.benign",
        "if own == track.name and not row.benign",
        "an oracle has a rank",
        IN_RANKING,
    ),
    Fault(
        "board-any-budget",
        RANKING,
        "return not falls or float(np.mean(falls)) <= ACCURACY_BUDGET",
        "return not falls or float(np.mean(falls)) >= ACCURACY_BUDGET",
        "the worst case is among the defenses that cost too much",
        IN_RANKING,
    ),
    Fault(
        "board-benign-sign",
        RANKING,
        'cell["defended_clean_accuracy"] - cell["clean_accuracy"]\n                for',
        'cell["clean_accuracy"] - cell["defended_clean_accuracy"]\n                for',
        "a loss of accuracy is shown as a gain",
        IN_RANKING,
    ),
    Fault(
        "board-oldest-cell",
        ROWS,
        'latest = {one.cell["seed"]: one for one in by_time}',
        'latest = {one.cell["seed"]: one for one in reversed(by_time)}',
        "the oldest of two cells is shown",
        IN_ROWS,
    ),
    Fault(
        "board-one-attack-per-rate",
        ROWS,
        'part("attack").items() if name != "rate"}',
        'part("attack").items() if name != "x"}',
        "each rate is an attack of its own",
        IN_ROWS,
    ),
    Fault(
        "board-share-off-by-one",
        PAYLOAD,
        "MISSING if value is None else round(value * SHARE_STEPS)",
        "MISSING if value is None else round(value * SHARE_STEPS) + 1",
        "all shares are a step too large",
        IN_PAGE,
    ),
    Fault(
        "board-high-is-low",
        PAYLOAD,
        '"high": shares(None if one is None else one.high for one in found),',
        '"high": shares(None if one is None else one.low for one in found),',
        "intervals have no width",
        IN_PAGE,
    ),
    Fault(
        "der-adds-the-loss",
        EFFECT,
        "return (fall_of_success - fall_of_accuracy + 1) / 2",
        "return (fall_of_success + fall_of_accuracy + 1) / 2",
        "a loss of accuracy is rewarded",
        IN_EFFECT,
    ),
    Fault(
        "der-rewards-gains",
        EFFECT,
        "max(0.0, float(before) - float(after))",
        "float(before) - float(after)",
        "accuracy that is won makes up for attack success",
        IN_EFFECT,
    ),
    Fault(
        "difference-of-second-minus-first",
        PAIRS,
        "drawn_B = mean_BM[:, first] - mean_BM[:, second]",
        "drawn_B = mean_BM[:, second] - mean_BM[:, first]",
        "the interval has the wrong sign",
        IN_PAIRS,
    ),
    Fault(
        "difference-without-strata",
        PAIRS,
        "cluster_draws(value_PM, cluster_P, stratum_P, rng)",
        "cluster_draws(value_PM, cluster_P, None, rng)",
        "clusters are drawn across strata",
        IN_PAIRS,
    ),
    Fault(
        "check-without-hashes",
        CHECK,
        "hashlib.sha256(there[name].read_bytes()).hexdigest() != listed[name]",
        "len(listed[name]) != 64",
        "no hash is compared",
        IN_ZOO,
    ),
    Fault(
        "check-rounds",
        CHECK,
        "TOLERANCE = 1e-6",
        "TOLERANCE = 1e-2",
        "a number may be wrong by a point",
        IN_ZOO,
    ),
    Fault(
        "check-success-as-accuracy",
        CHECK,
        '(triggered["pred"] == triggered["wanted"]).mean()',
        '(triggered["pred"] == triggered["true"]).mean()',
        "attack success is compared with robust accuracy",
        IN_ZOO,
    ),
    Fault(
        "path-kept",
        PRIVATE,
        '_PATH.sub(lambda found: re.split(r"[/\\\\]", found[0])[-1], text)',
        "_PATH.sub(lambda found: found[0], text)",
        "paths of the machine are published",
        IN_ZOO,
    ),
)
