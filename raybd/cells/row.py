"""The rows of the tables: what the finished stages of a cell say."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from raybd.cells.cell import Cell
from raybd.cells.judging import joined
from raybd.cells.row_names import name_columns
from raybd.cells.stage import Facts, Stage, VictimStage
from raybd.results.artifacts import Artifact
from raybd.results.provenance import commit, merged_versions, versions
from raybd.results.store import Store
from raybd.types.data import SAMPLE_ROLES
from raybd.types.methods import Attack

WEAK_ATTACK = 0.5
"""Attack success below which an attack counts as failed: a defense against it says nothing."""
STARTS = ("encoder", "source")
"""Inputs of a victim that were trained before it."""


def record(cell: Cell, store: Store) -> Facts:
    """Write the rows of a cell whose stages are in the store; return the one of the cells table."""
    row = row_of(cell, store)
    # The scores first: a row without its scores counts as damaged, scores without a row do not.
    if row.get("n_scores") is not None:
        _record_scores(cell, cell.experiment, store)
    store.write_cell(row)
    return row


def record_trial(
    cell: Cell, store: Store, sweep: str, trial: str
) -> tuple[Facts, dict[str, float]]:
    """Write the score rows of a cell of a trial.

    Return the row that it would have, and what its method reports about itself, free of truth.
    """
    row = row_of(cell, store)
    if row.get("n_scores") is not None:
        _record_scores(cell, sweep, store, sweep, trial)

    own: dict[str, float] = {}
    for stage in (cell.suspicion, *cell.extras):
        if stage is not None:
            own |= store.manifest(stage.name, stage.key).get("facts", {})
    return row, own


def record_failure(
    cell: Cell, store: Store, status: str, error: str, traceback: str | None = None
) -> Facts:
    """Write the row of a cell that failed, or that is infeasible, and the traceback beside it."""
    if traceback is not None:
        # Beside the row, since a traceback is long, and a row is read with all others.
        store.write(f"errors/{cell.id}.txt", traceback.encode())
    row = {**_names(cell), "status": status, "error": error}
    store.write_cell(row)
    return row


def finished_since(cell: Cell, store: Store, since: datetime) -> Facts | None:
    """Return the row of a cell that some process has finished since then; None if none has."""
    row = store.cell(cell.id)
    if row is None or row["status"] != "ok" or row["finished_at"] is None:
        return None
    return row if row["finished_at"] >= since else None


def row_of(cell: Cell, store: Store) -> Facts:
    """Return the row that the finished stages of a cell make up."""
    manifests = {stage.key: store.manifest(stage.name, stage.key) for stage in cell.stages()}
    row = {**_names(cell), "status": "ok", "error": None}

    # The victim first: what a defense does is measured again under names of its own.
    row |= cell.victim.columns(manifests[cell.victim.key])
    if cell.judged is not None:
        row |= _defended_columns(cell.judged, manifests[cell.judged.key])
    for stage in (cell.suspicion, cell.last):
        if stage is not None:
            row |= stage.columns(manifests[stage.key])
    # After the own columns, from which some of the control's are computed.
    if cell.control is not None:
        row |= cell.control.control_columns(manifests[cell.control.key], row)

    costs = [manifests[stage.key] for stage in cell.last.costs]
    own = _own_stages(cell)
    row |= {
        "oracle": any(_is_oracle(stage, manifests[stage.key]) for stage in own),
        "warning": _warning(manifests[cell.victim.key], [manifests[stage.key] for stage in own]),
        "seconds": sum(cost["seconds"] for cost in costs),
        "gpu_seconds": sum(cost["gpu_seconds"] for cost in costs),
        # The stages run one after the other.
        "peak_memory_bytes": max(cost["peak_memory_bytes"] for cost in costs),
        "device": costs[-1]["device"],
        "workers": costs[-1]["workers"],
        "versions": json.dumps(merged_versions(map(_versions, manifests.values()))),
    }
    return row


def _defended_columns(judged: Stage, facts: Mapping[str, Any]) -> Facts:
    """How well the defended victim does that another defense looks at."""
    columns = judged.columns(facts)
    # A training defense may have a verdict of its own, which is another row's.
    return {name: value for name, value in columns.items() if name.startswith("defended_")}


def _versions(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What computed a stage. An artefact of an older version does not tell its precision."""
    precision = {"precision": manifest["precision"]} if "precision" in manifest else {}
    return {**manifest["versions"], **precision}


def _own_stages(cell: Cell) -> list[Stage]:
    """The stages of the defense that may warn: those that it looks at or stands on, and the last.

    The victim of another defense, the stage that gives suspicion, and the end of the path.
    """
    found = {stage.key: stage for stage in (cell.judged, cell.suspicion, cell.last) if stage}
    return [stage for stage in found.values() if stage is not cell.victim]


def _is_oracle(stage: Stage, facts: Mapping[str, Any]) -> bool:
    """Whether the result used what a defender lacks, by the method or by the experiment's word."""
    return bool(facts.get("oracle", False)) or stage.method.oracle


def _warning(victim: Mapping[str, Any], own: list[dict[str, Any]]) -> str | None:
    """Why the numbers of a row should not be trusted."""
    warnings: list[str | None] = []
    # None where no test image counts, such as without an attack.
    success = victim["attack_success"]
    if success is not None and success < WEAK_ATTACK:
        warnings.append(f"the attack failed: attack success {success:.2f}")

    # Older artefacts, and victims without canaries, have no such number.
    learned = victim.get("canaries_learned")
    if learned is not None and learned < WEAK_ATTACK:
        warnings.append(
            f"the victim learned {100 * learned:.0f} % of the canaries: they say little"
        )
    return joined([*warnings, *(facts.get("warning") for facts in own)])


def _names(cell: Cell) -> Facts:
    """What a row says of a cell before it is run."""
    attack = cast(Attack, cell.attack.config)
    return {
        "cell": cell.id,
        "experiment": cell.experiment,
        "dataset": cell.dataset.name,
        "attack": cell.attack.name,
        # 0, not null: the benign control has no rate of its own, but what it poisons is known.
        "rate": 0.0 if attack.threat_model == "none" else attack.poison_rate,
        "rate_basis": attack.rate_basis,
        "threat_model": attack.threat_model,
        "trainer": cell.trainer.name,
        "network": cell.network.name,
        "defense": cell.defense_name,
        "defense_role": _defense_role(cell),
        "seed": cell.seed,
        "config": json.dumps(_config(cell), sort_keys=True),
        "versions": json.dumps(versions()),
        "commit": commit(),
        "finished_at": datetime.now(UTC),
        "config_id": cell.config_id or None,
    }


def _config(cell: Cell) -> Facts:
    """Every hyperparameter of a cell, and the keys of its stages."""
    config: Facts = {
        "dataset": cell.dataset.describe(),
        "attack": cell.attack.describe(),
        "trainer": cell.trainer.describe(),
        "network": cell.network.describe(),
        "defense": cell.defense.describe() if cell.defense else None,
        "stages": cell.keys(),
    }
    if cell.judged is not None:
        config["after"] = cell.judged.method.describe()
    if cell.suspicion is not None:
        config["suspicion"] = cell.suspicion.name
    for name, stage in cell.victim.inputs.items():
        if name in STARTS:
            config[name] = _start(cast(VictimStage, stage))
    # Without canaries the overlay is the poison, which `attack` describes.
    if cell.victim.overlay_stage.name == "plant":
        config["canaries"] = cell.victim.overlay_stage.method.describe()
    return config


def _start(victim: VictimStage) -> Facts:
    """What a victim started from."""
    methods = {
        "dataset": victim.dataset,
        "attack": victim.poison_stage.method,
        "trainer": victim.method,
    }
    return {name: method.describe() for name, method in methods.items()}


def _defense_role(cell: Cell) -> str:
    """The column `defense_role`. A training defense is a `trainer` there, as in older stores."""
    if cell.defense is None:
        return "none"
    if cell.defense.role == "training_defenses":
        return "trainer"
    return cell.defense.role.removesuffix("s")


def _record_scores(
    cell: Cell, experiment: str, store: Store, sweep: str | None = None, trial: str | None = None
) -> None:
    stage = cell.suspicion
    assert stage is not None
    # Where the poison was there already, nobody knows what its labels were.
    known = not cast(Attack, cell.attack.config).reads_flags
    columns = score_columns(store.load(stage.name, stage.key), known)
    one = {
        "cell": cell.id,
        "experiment": experiment,
        "sweep": sweep,
        "trial": trial,
        "trainer": cell.trainer.name,
        "seed": cell.seed,
    }
    n = len(columns["index"])
    columns |= {name: [value] * n for name, value in one.items()}
    store.write_scores(cell.id, cell.dataset.name, cell.attack.name, cell.defense_name, columns)


def score_columns(artifact: Artifact, known: bool = True) -> dict[str, Any]:
    """Return what the artefact of a verdict says of each sample, as columns of score rows.

    `known`: whether the true labels of poison are known.
    """
    score = artifact.tensors
    n = len(score["score_N"])
    roles = score["role_N"].tolist()
    own = [known or SAMPLE_ROLES[role] == "clean" for role in roles]
    names = name_columns(artifact)
    p_values = {"p_value": score["p_N"].numpy()} if "p_N" in score else {}
    return {
        "pool": [artifact.manifest["pool"]] * n,
        "index": score["index_N"].numpy(),
        "label": score["label_N"].numpy(),
        "true_label": _where(own, score["true_label_N"].tolist()),
        "role": [SAMPLE_ROLES[role] for role in roles],
        "score": score["score_N"].numpy(),
        "threshold": score["threshold_N"].numpy(),
        "flagged": (score["score_N"] > score["threshold_N"]).numpy(),
        **names,
        "true_label_name": _where(own, names["true_label_name"]),
        **p_values,
    }


def _where(known: Sequence[bool], values: Sequence[Any]) -> list[Any]:
    """Return values, and null for those that are not known."""
    return [value if here else None for here, value in zip(known, values, strict=True)]
