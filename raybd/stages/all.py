"""What happens inside a cell: poison, train, score, remove, repair, measure. No Ray, no paths.

Truth (roles, the trigger, test labels) stays in this file, pools.py and measures.py; a defense gets victim, suspects, clean part.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from raybd.cells.loading import load_poisoned, load_victim, shape_of, weights
from raybd.cells.pools import (
    GALLERY,
    intermediate_metrics,
    judge,
    make_pool,
    outside_trigger,
    shown_pair,
    training_pool,
    trusted_images,
)
from raybd.cells.row import describe_error, record, record_failure
from raybd.cells.victim_quality import measure
from raybd.distributed import group
from raybd.metrics import classification
from raybd.plan.experiment import Cell, Resources
from raybd.plan.graph import Stage, encoder_of, overlay_of, random_stream
from raybd.results.provenance import (
    commit,
    device_name,
    peak_memory_bytes,
    reset_peak_memory,
    versions,
)
from raybd.results.store import Store
from raybd.stages import planting
from raybd.training import inference
from raybd.training.runtime import Report, Runtime, judged_by, running
from raybd.types.data import POISON, Dataset, Poisoned, Split
from raybd.types.errors import Infeasible
from raybd.types.methods import (
    Attack,
    DataAttack,
    DatasetMethod,
    DefendingTrainer,
    Detector,
    EncoderAttack,
    Repair,
    Scanner,
    StreamDetector,
    Trainer,
    TrainingAttack,
    TransferTrainer,
    TwinAttack,
)
from raybd.types.models import Network, Victim

Tensors = dict[str, Tensor]
Facts = dict[str, Any]


def run_stage(
    stage: Stage,
    store: Store,
    dataset: Dataset,
    resources: Resources | None = None,
    report: Report | None = None,
    watched: bool = False,
) -> None:
    """Compute a stage and keep it in the store; does nothing if it is there. What it needs must be there.

    In a process group every member calls this; the first one writes. Watched: its reports tell how good it is after each epoch,
    where the method can say.
    """
    if group.broadcast(lambda: store.state(stage.name, stage.key)) == "ok":
        return
    resources, history = resources or Resources(), list[Facts]()

    def heard(facts: Mapping[str, Any]) -> None:
        history.append(dict(facts))
        if report is not None:
            report(facts)

    around = Runtime(
        report=heard,
        save=lambda name, data: store.write(f"checkpoints/{stage.key}/{name}", data),
        load=lambda name: _read_if_there(store, f"checkpoints/{stage.key}/{name}"),
        every_seconds=resources.checkpoint_seconds,
        watched=watched,
        compile=resources.compile,
    )
    reset_peak_memory()
    began = time.monotonic()
    dataset = planting.without_planted(stage, store, dataset)
    with running(around):
        tensors, facts = _COMPUTE[stage.name](stage, store, dataset)
    if group.rank() == 0:
        facts |= _describe(stage) | _cost(time.monotonic() - began, resources)
        store.save(
            stage.name,
            stage.key,
            tensors,
            facts | {"versions": versions(), "commit": commit(), "history": history},
        )
        store.remove(f"checkpoints/{stage.key}")


def _describe(stage: Stage) -> Facts:
    return {
        "method": {"role": stage.method.role, **stage.method.describe()},
        "network": stage.network.describe() if stage.network else None,
        "seed": stage.seed,
        "data": stage.data,
        "needs": {need.name: need.key for need in stage.needs},
    }


def _cost(seconds: float, resources: Resources) -> Facts:
    on_gpu = group.device().type == "cuda"
    return {
        "seconds": seconds,
        "gpu_seconds": seconds * group.world() if on_gpu else 0.0,
        "peak_memory_bytes": peak_memory_bytes(),
        "device": device_name(),
        "workers": group.world(),
        "cpus_per_worker": resources.cpus_per_worker,
    }


def run_cell(cell: Cell, store: Store, report: Report | None = None) -> dict[str, Any]:
    """Run a cell in the calling process, without Ray: for debuggers, notebooks and machines that have no Ray. Returns its row."""
    if cell.infeasible:
        return record_failure(cell, store, "infeasible", cell.infeasible)
    loaded = cache(lambda dataset: cast(DatasetMethod, dataset.config).load())
    try:
        for stage in cell.stages():
            run_stage(stage, store, loaded(stage.dataset), report=report)
    except Exception as error:
        record_failure(cell, store, "failed", describe_error(error))
        raise
    return record(cell, store)


# --- the stages ------------------------------------------------------------------------------------------------------------------


def _poison(stage: Stage, store: Store, dataset: Dataset) -> tuple[Tensors, Facts]:
    attack, rng = cast(Attack, stage.method.config), random_stream("poison", stage.seed)
    victim = None
    if isinstance(attack, TrainingAttack):
        assert stage.network is not None
        network = cast(Network, stage.network.config)
        poisoned, victim = attack.poison_and_train(dataset.train, dataset.num_classes, network, rng)
    elif isinstance(attack, EncoderAttack):
        encoder = load_victim(stage.need("encoder"), store)
        poisoned, victim = attack.infect(encoder, dataset.train, dataset.num_classes, rng)
    elif isinstance(attack, TwinAttack):
        twin = load_victim(stage.need("victim"), store)
        poisoned = attack.poison_with_twin(dataset.train, dataset.num_classes, twin, rng)
    else:
        poisoned = cast(DataAttack, attack).poison(dataset.train, dataset.num_classes, rng)
    shown = poisoned.index_M[:GALLERY]
    counted = attack.label_map.counted(dataset.test.y_N)
    sample = dataset.test.x_NCHW[counted][:256]
    change = (
        (poisoned.trigger(sample).int() - sample.int()).abs() if len(sample) else torch.zeros(1)
    )
    tensors = {
        "index_M": poisoned.index_M,
        "x_MCHW": poisoned.x_MCHW,
        "y_M": poisoned.y_M,
        "role_M": poisoned.role_M,
        "gallery_before": dataset.train.x_NCHW[shown],
        "gallery_after": poisoned.x_MCHW[:GALLERY],
        **{f"state.{name}": tensor for name, tensor in poisoned.state.items()},
        **(weights(victim) if victim is not None else {}),
    }
    facts: Facts = {
        **shape_of(dataset),
        "n_train": len(dataset.train),
        "n_poison": int((poisoned.role_M == POISON).sum()),
        "n_cross": int((poisoned.role_M > POISON).sum()),
        "largest_pixel_change": int(change.max()),
    }
    if facts["n_poison"] and facts["largest_pixel_change"] == 0:
        raise Infeasible("the trigger changes no pixel of the test images")
    return tensors, facts


def _encoder(stage: Stage, store: Store, dataset: Dataset) -> tuple[Tensors, Facts]:
    poison = stage.need("poison")
    if isinstance(poison.method.config, EncoderAttack):
        encoder = load_victim(poison, store)
    else:
        encoder = _train(stage, load_poisoned(poison, store).over(dataset.train), dataset, store)
    return weights(encoder), shape_of(dataset)


def _victim(stage: Stage, store: Store, dataset: Dataset) -> tuple[Tensors, Facts]:
    poison = stage.need("poison")
    poisoned = load_poisoned(overlay_of(stage), store)
    if isinstance(poison.method.config, TrainingAttack):
        victim = load_victim(poison, store)
    else:
        victim = _train(stage, _labelled(stage, poisoned, dataset), dataset, store)
    return weights(victim), {
        **shape_of(dataset),
        **measure(victim, dataset, poisoned),
        **planting.learned(victim, poisoned),
    }


def _features(stage: Stage, store: Store, dataset: Dataset) -> tuple[Tensors, Facts]:
    """The training set as the victim embeds it, once for all detectors that look at that."""
    suspects = load_poisoned(overlay_of(stage), store).over(dataset.train)
    return {"z_ND": inference.embeddings(load_victim(stage.need("victim"), store), suspects)}, {}


def _score(stage: Stage, store: Store, dataset: Dataset, run: int = 0) -> tuple[Tensors, Facts]:
    detector = cast(Detector, stage.method.config)
    poisoned = load_poisoned(overlay_of(stage), store)
    victim = load_victim(stage.need("victim"), store)
    pool = make_pool(detector, victim, dataset, poisoned)
    for features in (need for need in stage.needs if need.name == "features"):
        z_ND = store.load(features.name, features.key).tensors["z_ND"]
        pool = replace(pool, suspects=replace(pool.suspects, z_ND=z_ND))
    rng = random_stream("score", stage.seed, run)
    order = torch.randperm(len(pool.suspects), generator=rng)
    clean, back = trusted_images(stage, dataset, poisoned), torch.argsort(order)
    if not isinstance(detector, StreamDetector) or detector.pool == "train":
        pool = pool.shuffled(order)  # the images of the other order are freed here
        with judged_by(lambda score_N: intermediate_metrics(score_N, pool)):
            verdict = detector.score(victim, pool.suspects, clean, rng)
        tensors, facts = judge(stage, verdict, pool, back)
        return tensors, {**facts, "pool": detector.pool, "auroc_outside_trigger": None}
    learned, shuffled = detector.learn(victim, clean, rng), pool.shuffled(order)
    verdict = learned(shuffled.suspects)
    tensors, facts = judge(stage, verdict, shuffled, back)
    tensors |= shown_pair(learned, verdict, pool)
    if stage.name == "score" and encoder_of(stage.need("victim")):
        predicted_N = classification.predictions(inference.infer(victim, dataset.train.x_NCHW))
        downstream = learned(replace(dataset.train, y_N=predicted_N))
        tensors["train_flagged_N"] = (downstream.score_N > downstream.threshold_N).cpu()
    return tensors, {
        **facts,
        "pool": detector.pool,
        "auroc_outside_trigger": outside_trigger(verdict, shuffled, dataset),
    }


def _scan(stage: Stage, store: Store, dataset: Dataset) -> tuple[Tensors, Facts]:
    scanner = cast(Scanner, stage.method.config)
    verdict = scanner.scan(
        load_victim(stage.need("victim"), store), dataset.clean, random_stream("scan", stage.seed)
    )
    score, threshold = float(verdict.score_N), float(verdict.threshold_N)
    if not math.isfinite(score):
        raise ValueError(f"{stage.method.name} gave a score that is not finite")
    said = {"oracle": verdict.oracle, "warning": verdict.warning, "facts": dict(verdict.facts)}
    pictures = {f"picture.{name}": tensor.cpu() for name, tensor in verdict.pictures.items()}
    return pictures, {
        "model_score": score,
        "model_threshold": threshold,
        "n_flagged": int(score > threshold),
        **said,
    }


def _baseline(stage: Stage, store: Store, dataset: Dataset) -> tuple[Tensors, Facts]:
    """The clean twin held against the trigger."""
    return {}, measure(
        load_victim(stage.need("victim"), store), dataset, load_poisoned(stage.needs[1], store)
    )


def _removal(stage: Stage, store: Store, dataset: Dataset) -> tuple[Tensors, Facts]:
    score = store.load("score", stage.need("score").key).tensors
    keep_N = score["score_N"] <= score["threshold_N"]
    poisoned = load_poisoned(overlay_of(stage), store)
    facts = {**shape_of(dataset), "n_removed": int((~keep_N).sum())}
    if keep_N.all() and len(keep_N) == len(dataset.train):  # what was planted goes in any case
        victim = load_victim(stage.need("victim"), store)
    else:
        if not keep_N.any():
            raise ValueError(
                "the detector flagged the whole training set; nothing is left to train on"
            )
        victim = _train(
            stage,
            _labelled(stage, poisoned, dataset).select(score["index_N"][keep_N]),
            dataset,
            store,
        )
    return weights(victim), {**facts, **measure(victim, dataset, poisoned)}


def _purification(stage: Stage, store: Store, dataset: Dataset) -> tuple[Tensors, Facts]:
    """Hou, Li and Yao 2025, arXiv 2411.16154: screen what the probe is trained on, and what it is asked."""
    score = store.load("score", stage.need("score").key).tensors
    keep_N = ~score["train_flagged_N"]
    victim = load_victim(stage.need("victim"), store)
    if not keep_N.any():
        raise ValueError(
            "the detector flagged the whole training set of the probe; nothing is left to train on"
        )
    if not keep_N.all():
        victim = _train(stage, dataset.train.select(keep_N), dataset, store)
    refused_N = score["score_N"] > score["threshold_N"]
    facts = {
        **shape_of(dataset),
        "n_removed": int((~keep_N).sum()),
        "n_refused": int(refused_N.sum()),
    }
    return weights(victim), {
        **facts,
        **measure(victim, dataset, load_poisoned(stage.need("poison"), store), refused_N),
    }


def _repair(stage: Stage, store: Store, dataset: Dataset) -> tuple[Tensors, Facts]:
    repair = cast(Repair, stage.method.config)
    poisoned = load_poisoned(overlay_of(stage), store)
    victim = load_victim(stage.need("victim"), store)
    repaired = repair.repair(
        victim,
        _labelled(stage, poisoned, dataset),
        dataset.clean,
        random_stream("repair", stage.seed),
    )
    return weights(repaired), {**shape_of(dataset), **measure(repaired, dataset, poisoned)}


def _defended(stage: Stage, store: Store, dataset: Dataset, run: int = 0) -> tuple[Tensors, Facts]:
    assert stage.network is not None
    trainer, network = (
        cast(DefendingTrainer, stage.method.config),
        cast(Network, stage.network.config),
    )
    poisoned, rng = (
        load_poisoned(overlay_of(stage), store),
        random_stream("victim", stage.seed, run),
    )
    pool = training_pool(dataset, poisoned)
    defended = trainer.defend(pool.suspects, dataset.num_classes, network, dataset.clean, rng)
    facts: Facts = {
        **shape_of(dataset),
        **measure(defended.victim, dataset, poisoned),
        "oracle": False,
    }
    if defended.verdict is None:
        return weights(defended.victim), {**facts, "warning": defended.warning}
    tensors, judged = judge(stage, defended.verdict, pool)
    warnings = [warning for warning in (defended.warning, defended.verdict.warning) if warning]
    return {**tensors, **weights(defended.victim)}, {
        **facts,
        **judged,
        "pool": "train",
        "warning": "; ".join(warnings) or None,
    }


def _stability(stage: Stage, store: Store, dataset: Dataset) -> tuple[Tensors, Facts]:
    verdicts = {"score": _score, "defended": _defended}
    return planting.stability(
        stage, store, lambda scored, run: verdicts[scored.name](scored, store, dataset, run)
    )


def _labelled(stage: Stage, poisoned: Poisoned, dataset: Dataset) -> Split:
    """What a victim is trained on: poisoned, unless it is a probe, whose poison is in the encoder below."""
    return dataset.train if encoder_of(stage.need("victim")) else poisoned.over(dataset.train)


_COMPUTE: Mapping[str, Callable[[Stage, Store, Dataset], tuple[Tensors, Facts]]] = {
    "poison": _poison,
    "plant": planting.plant,
    "encoder": _encoder,
    "victim": _victim,
    "features": _features,
    "score": _score,
    "stability": _stability,
    "control": _score,
    "scan": _scan,
    "baseline": _baseline,
    "removal": _removal,
    "purification": _purification,
    "repair": _repair,
    "defended": _defended,
}


def _train(stage: Stage, split: Split, dataset: Dataset, store: Store) -> Victim:
    assert stage.network is not None
    network, rng = cast(Network, stage.network.config), random_stream(stage.name, stage.seed)
    trainer = stage.method.config
    if isinstance(trainer, TransferTrainer):
        source = next(
            (need for need in stage.need("victim").needs if need.name in ("victim", "encoder")),
            None,
        )
        start = load_victim(source, store) if source is not None else None
        return trainer.train_from(start, split, dataset.num_classes, network, rng)
    return cast(Trainer, trainer).train(split, dataset.num_classes, network, rng)


def _read_if_there(store: Store, path: str) -> bytes | None:
    try:
        return store.read(path)
    except FileNotFoundError:
        return None
