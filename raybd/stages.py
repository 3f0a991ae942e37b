"""What happens inside a cell: poison, train, score, remove, repair, measure. No Ray, no paths.

Truth (roles, the trigger, test labels) stays in this file; a defense gets the victim, the suspects and the clean part.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from raybd import fit, metrics, parallel
from raybd.experiment import Cell, Resources, Stage, random_stream
from raybd.provenance import commit, device_name, peak_memory_bytes, reset_peak_memory, versions
from raybd.record import describe_error, record, record_failure
from raybd.store import Store
from raybd.types import (
    CLEAN,
    POISON,
    Attack,
    DataAttack,
    Dataset,
    DatasetMethod,
    DefendingTrainer,
    Detector,
    EncoderAttack,
    Infeasible,
    Network,
    Poisoned,
    Repair,
    Report,
    Split,
    Suspicion,
    Trainer,
    TrainingAttack,
    TransferTrainer,
    TwinAttack,
    UserError,
    Victim,
)

GALLERY = 16
"""How many images of a stage are kept for the report."""

_VICTIM = "victim."
"""Weights of a model stand in an artefact under names that begin so."""

Tensors = dict[str, Tensor]
Facts = dict[str, Any]


@dataclass(frozen=True)
class Pool:
    """What a detector scores, and, for stages.py alone, the truth about it."""

    suspects: Split
    index_N: Tensor
    true_y_N: Tensor
    role_N: Tensor


def run_stage(
    stage: Stage,
    store: Store,
    dataset: Dataset,
    resources: Resources | None = None,
    report: Report | None = None,
) -> None:
    """Compute a stage and keep it in the store; does nothing if it is there. What it needs must be there.

    In a process group every member calls this; the first one writes.
    """
    if parallel.from_first(lambda: store.state(stage.name, stage.key)) == "ok":
        return
    resources, history = resources or Resources(), list[Facts]()

    def heard(facts: Mapping[str, Any]) -> None:
        history.append(dict(facts))
        if report is not None:
            report(facts)

    runtime = fit.Runtime(
        report=heard,
        save=lambda name, data: store.write(f"checkpoints/{stage.key}/{name}", data),
        load=lambda name: _read_if_there(store, f"checkpoints/{stage.key}/{name}"),
        every_seconds=resources.checkpoint_seconds,
    )
    reset_peak_memory()
    began = time.monotonic()
    with fit.running(runtime):
        tensors, facts = _COMPUTE[stage.name](stage, store, dataset)
    cost = _cost(time.monotonic() - began, resources)
    if parallel.rank() == 0:
        origin = {"versions": versions(), "commit": commit(), "history": history}
        store.save(stage.name, stage.key, tensors, {**facts, **_describe(stage), **cost, **origin})
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
    on_gpu = parallel.device().type == "cuda"
    return {
        "seconds": seconds,
        "gpu_seconds": seconds * parallel.world() if on_gpu else 0.0,
        "peak_memory_bytes": peak_memory_bytes(),
        "device": device_name(),
        "workers": parallel.world(),
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
    change = (poisoned.trigger(sample).int() - sample.int()).abs() if len(sample) else torch.zeros(1)
    tensors = {
        "index_M": poisoned.index_M,
        "x_MCHW": poisoned.x_MCHW,
        "y_M": poisoned.y_M,
        "role_M": poisoned.role_M,
        "gallery_before": dataset.train.x_NCHW[shown],
        "gallery_after": poisoned.x_MCHW[:GALLERY],
        **{f"state.{name}": tensor for name, tensor in poisoned.state.items()},
        **(_weights(victim) if victim is not None else {}),
    }
    facts: Facts = {
        **_shape_of(dataset),
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
    return _weights(encoder), _shape_of(dataset)


def _victim(stage: Stage, store: Store, dataset: Dataset) -> tuple[Tensors, Facts]:
    poison = stage.need("poison")
    poisoned = load_poisoned(poison, store)
    if isinstance(poison.method.config, TrainingAttack):
        victim = load_victim(poison, store)
    else:
        victim = _train(stage, _labelled(stage, poisoned, dataset), dataset, store)
    return _weights(victim), {**_shape_of(dataset), **measure(victim, dataset, poisoned)}


def _score(stage: Stage, store: Store, dataset: Dataset) -> tuple[Tensors, Facts]:
    detector = cast(Detector, stage.method.config)
    poisoned = load_poisoned(stage.need("poison"), store)
    victim = load_victim(stage.need("victim"), store)
    pool = make_pool(detector, victim, dataset, poisoned)
    rng = random_stream("score", stage.seed)
    order = torch.randperm(len(pool.suspects), generator=rng)
    verdict = detector.score(victim, pool.suspects.select(order), _trusted(stage, dataset, poisoned), rng)
    tensors, facts = _judge(stage, verdict, pool, order)
    pictures = {f"picture.{name}": tensor.cpu() for name, tensor in verdict.pictures.items() if name != "rows"}
    if pictures:
        pictures["picture.role"] = pool.role_N[order[verdict.pictures["rows"]]]
    outside = _outside_trigger(verdict, pool, order, dataset) if detector.pool == "test" else None
    return {**tensors, **pictures}, {**facts, "pool": detector.pool, "auroc_outside_trigger": outside}


def _outside_trigger(verdict: Suspicion, pool: Pool, order: Tensor, dataset: Dataset) -> float | None:
    """AUROC where only that part of the score counts that lies where the trigger changes no pixel: an analysis, no defense."""
    triggered = pool.role_N == POISON
    if verdict.parts_NHW is None or not triggered.any():
        return None
    before, after = dataset.test.x_NCHW[pool.index_N[triggered]], pool.suspects.x_NCHW[triggered]
    touched_HW = (before != after).any(1).any(0).float()
    outside_HW = functional.adaptive_max_pool2d(touched_HW[None], verdict.parts_NHW.shape[1:])[0] == 0
    if not outside_HW.any():
        return None
    score_N = (verdict.parts_NHW.cpu() * outside_HW).sum((1, 2))
    return metrics.detection(score_N, torch.zeros(len(score_N)), pool.role_N[order])["auroc"]


def _trusted(stage: Stage, dataset: Dataset, poisoned: Poisoned) -> Split:
    """What the detector is told that it may trust: the clean part, unless the experiment says otherwise."""
    asked = stage.method.trusted
    if asked is None:
        return dataset.clean
    split = dataset.clean if asked.dataset is None else cast(DatasetMethod, asked.dataset.config).load().train
    if split.x_NCHW.shape[1:] != dataset.train.x_NCHW.shape[1:]:
        raise UserError(
            f"{stage.method.name}: its trusted images have the shape {tuple(split.x_NCHW.shape[1:])}, "
            f"the data set has {tuple(dataset.train.x_NCHW.shape[1:])}",
            "Give the trusted data set the same `size`.",
            exit_code=1,
        )
    rows = torch.randperm(len(split), generator=random_stream("trusted", stage.seed))[: round(asked.poisoned * len(split))]
    if not len(rows):
        return split
    x_NCHW = split.x_NCHW.clone()
    x_NCHW[rows] = poisoned.trigger(split.x_NCHW[rows])
    return Split(x_NCHW, split.y_N)


def _judge(stage: Stage, verdict: Suspicion, pool: Pool, order: Tensor) -> tuple[Tensors, Facts]:
    """Hold a verdict on the pool in this order against the truth."""
    back = torch.argsort(order)
    score_N = verdict.score_N.float().cpu()[back]
    threshold_N = verdict.threshold_N.float().cpu().expand(len(score_N))[back]
    if not torch.isfinite(score_N).all():
        raise ValueError(f"{stage.method.name} gave {int((~torch.isfinite(score_N)).sum())} scores that are not finite")
    flagged_N = score_N > threshold_N
    top = torch.argsort(score_N, descending=True, stable=True)[:GALLERY]
    tensors = {
        "score_N": score_N,
        "threshold_N": threshold_N,
        "index_N": pool.index_N,
        "label_N": pool.suspects.y_N,
        "true_label_N": pool.true_y_N,
        "role_N": pool.role_N,
        "gallery": pool.suspects.x_NCHW[top],
        "gallery_row": top,
    }
    counts = {"n_scores": len(score_N), "n_flagged": int(flagged_N.sum())}
    said = {"oracle": verdict.oracle, "warning": verdict.warning, "facts": dict(verdict.facts)}
    return tensors, {**metrics.detection(score_N, flagged_N, pool.role_N), **counts, **said}


def _removal(stage: Stage, store: Store, dataset: Dataset) -> tuple[Tensors, Facts]:
    score = store.load("score", stage.need("score").key).tensors
    keep_N = score["score_N"] <= score["threshold_N"]
    poisoned = load_poisoned(stage.need("poison"), store)
    suspects = _labelled(stage, poisoned, dataset)
    facts = {**_shape_of(dataset), "n_removed": int((~keep_N).sum())}
    if keep_N.all():
        victim = load_victim(stage.need("victim"), store)
    else:
        if not keep_N.any():
            raise ValueError("the detector flagged the whole training set; nothing is left to train on")
        victim = _train(stage, suspects.select(keep_N), dataset, store)
    return _weights(victim), {**facts, **measure(victim, dataset, poisoned)}


def _repair(stage: Stage, store: Store, dataset: Dataset) -> tuple[Tensors, Facts]:
    repair = cast(Repair, stage.method.config)
    poisoned = load_poisoned(stage.need("poison"), store)
    victim = load_victim(stage.need("victim"), store)
    repaired = repair.repair(victim, _labelled(stage, poisoned, dataset), dataset.clean, random_stream("repair", stage.seed))
    return _weights(repaired), {**_shape_of(dataset), **measure(repaired, dataset, poisoned)}


def _defended(stage: Stage, store: Store, dataset: Dataset) -> tuple[Tensors, Facts]:
    assert stage.network is not None
    trainer, network = cast(DefendingTrainer, stage.method.config), cast(Network, stage.network.config)
    poisoned, rng = load_poisoned(stage.need("poison"), store), random_stream("victim", stage.seed)
    n = len(dataset.train)
    pool = _training_pool(dataset, poisoned)
    defended = trainer.defend(pool.suspects, dataset.num_classes, network, dataset.clean, rng)
    facts: Facts = {**_shape_of(dataset), **measure(defended.victim, dataset, poisoned), "oracle": False}
    if defended.verdict is None:
        return _weights(defended.victim), {**facts, "warning": defended.warning}
    tensors, judged = _judge(stage, defended.verdict, pool, torch.arange(n))
    warnings = [warning for warning in (defended.warning, defended.verdict.warning) if warning]
    return {**tensors, **_weights(defended.victim)}, {**facts, **judged, "pool": "train", "warning": "; ".join(warnings) or None}


def _labelled(stage: Stage, poisoned: Poisoned, dataset: Dataset) -> Split:
    """What a victim is trained on: poisoned, unless it is a probe, whose poison is in the encoder below."""
    is_probe = any(need.name == "encoder" for need in stage.need("victim").needs)
    return dataset.train if is_probe else poisoned.over(dataset.train)


_COMPUTE: Mapping[str, Callable[[Stage, Store, Dataset], tuple[Tensors, Facts]]] = {
    "poison": _poison,
    "encoder": _encoder,
    "victim": _victim,
    "score": _score,
    "control": _score,
    "removal": _removal,
    "repair": _repair,
    "defended": _defended,
}


def measure(victim: Victim, dataset: Dataset, poisoned: Poisoned) -> dict[str, float | None]:
    """Clean accuracy on all test images; attack success and robust accuracy on those that count, with the trigger."""
    test, labels = dataset.test, poisoned.labels
    counted = labels.counted(test.y_N)
    true_y = test.y_N[counted]
    clean = metrics.predictions(fit.infer(victim, test.x_NCHW))
    facts: dict[str, float | None] = {"clean_accuracy": metrics.clean_accuracy(clean, test.y_N)}
    if not counted.any():
        return {**facts, "attack_success": None, "robust_accuracy": None}
    triggered = metrics.predictions(fit.infer(victim, poisoned.trigger(test.x_NCHW[counted])))
    wanted = labels.wanted(true_y, dataset.num_classes)
    return {
        **facts,
        "attack_success": metrics.attack_success(triggered, wanted),
        "robust_accuracy": metrics.robust_accuracy(triggered, true_y),
    }


def load_victim(stage: Stage, store: Store) -> Victim:
    """A trained victim from the store."""
    assert stage.network is not None
    artifact = store.load(stage.name, stage.key)
    weights = {name.removeprefix(_VICTIM): t for name, t in artifact.tensors.items() if name.startswith(_VICTIM)}
    config = stage.network.config
    if "pretrained" in type(config).model_fields:  # the weights come from the store, not from where training began
        config = config.model_copy(update={"pretrained": False})
    head: nn.Module | None
    with torch.random.fork_rng(devices=[]):
        encoder, head = cast(Network, config).build(artifact.manifest["num_classes"], artifact.manifest["image_size"])
    head_state = {name.removeprefix("head."): tensor for name, tensor in weights.items() if name.startswith("head.")}
    head_for = getattr(stage.method.config, "head_for", None)
    if not head_state:
        head = None
    elif head_for is not None:
        head = head_for(head_state)
    victim = Victim(encoder, head, torch.zeros(3), torch.ones(3))
    victim.load_state_dict(weights)
    return victim.eval()


def load_poisoned(stage: Stage, store: Store) -> Poisoned:
    """A poisoned overlay from the store, with its trigger."""
    attack = cast(Attack, stage.method.config)
    tensors = store.load(stage.name, stage.key).tensors
    state = {name.removeprefix("state."): tensor for name, tensor in tensors.items() if name.startswith("state.")}
    return Poisoned(
        index_M=tensors["index_M"],
        x_MCHW=tensors["x_MCHW"],
        y_M=tensors["y_M"],
        role_M=tensors["role_M"],
        trigger=partial(attack.stamp, state=state),
        labels=attack.label_map,
        state=state,
    )


def _train(stage: Stage, split: Split, dataset: Dataset, store: Store) -> Victim:
    assert stage.network is not None
    network, rng = cast(Network, stage.network.config), random_stream(stage.name, stage.seed)
    trainer = stage.method.config
    if isinstance(trainer, TransferTrainer):
        source = next((need for need in stage.need("victim").needs if need.name in ("victim", "encoder")), None)
        start = load_victim(source, store) if source is not None else None
        return trainer.train_from(start, split, dataset.num_classes, network, rng)
    return cast(Trainer, trainer).train(split, dataset.num_classes, network, rng)


def make_pool(detector: Detector, victim: Victim, dataset: Dataset, poisoned: Poisoned) -> Pool:
    """The training set as the victim saw it; or all test images, clean, and those that count once more with the trigger."""
    if detector.pool == "train":
        return _training_pool(dataset, poisoned)
    test = dataset.test
    counted = torch.nonzero(poisoned.labels.counted(test.y_N)).flatten()
    x_NCHW = torch.cat([test.x_NCHW, poisoned.trigger(test.x_NCHW[counted])]) if len(counted) else test.x_NCHW
    index_N = torch.cat([torch.arange(len(test)), counted])
    role_N = torch.full((len(index_N),), CLEAN, dtype=torch.int8)
    role_N[len(test) :] = POISON
    predicted_N = metrics.predictions(fit.infer(victim, x_NCHW))
    return Pool(Split(x_NCHW, predicted_N), index_N, test.y_N[index_N], role_N)


def _training_pool(dataset: Dataset, poisoned: Poisoned) -> Pool:
    n = len(dataset.train)
    return Pool(poisoned.over(dataset.train), torch.arange(n), dataset.train.y_N, poisoned.role_N(n))


def _shape_of(dataset: Dataset) -> Facts:
    """What a victim's network has to be built for."""
    return {"num_classes": dataset.num_classes, "image_size": dataset.train.x_NCHW.shape[-1]}


def _weights(victim: Victim) -> Tensors:
    return {f"{_VICTIM}{name}": tensor.detach().cpu() for name, tensor in victim.state_dict().items()}


def _read_if_there(store: Store, path: str) -> bytes | None:
    try:
        return store.read(path)
    except FileNotFoundError:
        return None
