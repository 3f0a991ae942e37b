"""What stages will take: from what such stages took in the store, else from shipped figures.

A stage takes about as long as its images, its epochs and its network ask for. So what earlier
stages took is scaled from one to another, from the most alike to the least:

1. the same method on the same data, with the same network and epochs: its median (`same`);
2. the same method and network: by images and epochs (`scaled`);
3. the same method, and then the same kind of stage: by images, epochs and network (`scaled`);
4. no stage of this kind has run here: by figures of `shipped_costs.py` (`shipped`).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, TypeGuard

from raybd.cells.stage import Stage
from raybd.plan.shipped_costs import OTHER_NETWORK, OTHER_STAGE, PACE, SECONDS
from raybd.results.artifacts import Damaged, Unusable
from raybd.results.store import Store

TIMED_ARTEFACTS_PER_STAGE = 500
"""About how many artefacts of each kind of stage are read to estimate its time."""
TRAINING = "victim"
"""The kind of stage that tells how much longer one network takes than another."""
ON_TRUSTED = ("repair", "scan")
"""Kinds of stages that work on trusted images, whose number does not follow the training set's."""
ONE_PASS = ("features", "purification")
"""Kinds of stages that run a victim once; the epochs are those of its training."""

Basis = Literal["same", "scaled", "shipped"]


@dataclass(frozen=True)
class Work:
    """What a stage asks for."""

    stage: str
    method: str
    network: str
    """That of the victim that it is about; empty: it is about images alone."""
    data: str
    """Hash of the data set."""
    images: int | None
    """Training images; None: not known."""
    epochs: int
    """1 where the method has no such field."""

    @property
    def passes(self) -> float:
        """What its time grows with: images times epochs, where they count."""
        images = 1 if self.stage in ON_TRUSTED else self.images or 1
        return float(images * (1 if self.stage in ONE_PASS else self.epochs))


@dataclass(frozen=True)
class Took:
    """What an earlier stage asked for, and took."""

    work: Work
    seconds: float
    gpu_seconds: float


@dataclass(frozen=True)
class Cost:
    """What stages will take."""

    seconds: Mapping[str, float]
    """By kind of stage."""
    gpu_seconds: float
    based_on: Mapping[Basis, int]
    """How many of the stages are estimated from what."""

    @property
    def total(self) -> float:
        """Seconds of computing of all stages, one after the other."""
        return sum(self.seconds.values())


class CostModel:
    """What stages take, learned from earlier ones."""

    def __init__(self, history: Iterable[Took]) -> None:
        """Learn from the history."""
        self._history = list(history)
        self._paces = self._found_paces()

    def of(self, works: Iterable[Work]) -> Cost:
        """Return what stages will take."""
        seconds: dict[str, float] = {}
        based_on: Counter[Basis] = Counter()
        gpu_seconds = 0.0
        # Variants and seeds of a cell ask for the same.
        for work, count in Counter(works).items():
            each, on_gpu, basis = self.estimate(work)
            seconds[work.stage] = seconds.get(work.stage, 0.0) + count * each
            gpu_seconds += count * on_gpu
            based_on[basis] += count
        return Cost(seconds, gpu_seconds, dict(based_on))

    def estimate(self, work: Work) -> tuple[float, float, Basis]:
        """Return the seconds of a stage, those on GPUs, and what they are based on."""
        of_method = [
            took
            for took in self._history
            if (took.work.stage, took.work.method) == (work.stage, work.method)
        ]
        same = [took for took in of_method if took.work == work]
        if same:
            return *_typical(same, lambda took: 1.0), "same"

        known = [took for took in of_method if took.work.images]
        of_network = [took for took in known if took.work.network == work.network]
        of_stage = [
            took for took in self._history if took.work.stage == work.stage and took.work.images
        ]
        for alike in (of_network, known, of_stage) if work.images else ():
            if alike:
                return *_typical(alike, lambda took: self._times(work, took.work)), "scaled"
        # The sizes of older artefacts are not known. What they took is better than nothing.
        if of_method:
            return *_typical(of_method, lambda took: 1.0), "scaled"

        each = SECONDS.get(work.stage, OTHER_STAGE)
        return each * work.passes * self._pace(work.network), 0.0, "shipped"

    def _times(self, work: Work, other: Work) -> float:
        """Return how many times longer a stage takes than another one."""
        paces = self._pace(work.network) / self._pace(other.network)
        return work.passes / other.passes * paces

    def _pace(self, network: str) -> float:
        """Return how many times longer a network takes than small_cnn."""
        if not network:
            return 1.0
        return self._paces.get(network, PACE.get(network, OTHER_NETWORK))

    def _found_paces(self) -> dict[str, float]:
        """Return the paces of the networks that victims were trained with here."""
        each: dict[str, list[float]] = {}
        for took in self._history:
            if took.work.stage == TRAINING and took.work.images:
                each.setdefault(took.work.network, []).append(took.seconds / took.work.passes)
        middle = {network: median(found) for network, found in each.items()}
        # All in terms of one network whose pace is shipped, so that both kinds compare.
        anchor = next((network for network in PACE if network in middle), None)
        if anchor is None or not middle[anchor]:
            return {}
        unit = middle[anchor] / PACE[anchor]
        return {network: found / unit for network, found in middle.items()}


def _typical(alike: Collection[Took], times: Callable[[Took], float]) -> tuple[float, float]:
    """Return the median time, and that on GPUs, of stages that are each scaled by `times`."""
    # The median: a single slow run should not change the estimate.
    seconds = median(took.seconds * times(took) for took in alike)
    return seconds, median(took.gpu_seconds * times(took) for took in alike)


def work_of(stage: Stage, images: Mapping[str, int]) -> Work:
    """Return what a stage asks for; `images` are the sizes of data sets, by hash."""
    networks = [one.network.kind for one in stage.path() if one.network is not None]
    return Work(
        stage.name,
        stage.method.kind,
        # The last one: a probe or a repair is about the victim nearest to it.
        networks[-1] if networks else "",
        stage.data,
        images.get(stage.data),
        _epochs(dict(stage.method.config)),
    )


def history(names: Collection[str], store: Store, images: Mapping[str, int]) -> list[Took]:
    """Return what stages of these kinds, and victims, took in a store."""
    manifests: dict[str, Mapping[str, Any]] = {}
    for name in sorted({*names, TRAINING}):
        keys = store.keys(name)
        # Keys are hashes, so that every n-th of them is a fair sample.
        for key in keys[:: 1 + len(keys) // TIMED_ARTEFACTS_PER_STAGE]:
            try:
                manifests[key] = store.manifest(name, key)
            except (Damaged, Unusable, FileNotFoundError):
                continue  # it counts as not seen, whatever experiment it is of
    return learned(manifests, images)


def learned(manifests: Mapping[str, Mapping[str, Any]], images: Mapping[str, int]) -> list[Took]:
    """Return what the manifests, by key, say of their stages; those that say nothing are left out.

    Somebody else may have written them.
    """
    found = [_took(manifest, manifests, images) for manifest in manifests.values()]
    return [took for took in found if took is not None]


def _took(
    manifest: Mapping[str, Any],
    manifests: Mapping[str, Mapping[str, Any]],
    images: Mapping[str, int],
) -> Took | None:
    method = manifest.get("method")
    seconds = manifest.get("seconds")
    on_gpu = manifest.get("gpu_seconds", 0.0)
    if not isinstance(method, dict) or not _is_time(seconds) or not _is_time(on_gpu):
        return None
    count = manifest.get("images")
    data = str(manifest.get("data"))
    work = Work(
        str(manifest.get("stage")),
        str(method.get("kind")),
        _network(manifest, manifests),
        data,
        count if type(count) is int and count > 0 else images.get(data),
        _epochs(method),
    )
    return Took(work, float(seconds), float(on_gpu))


def _network(manifest: Mapping[str, Any], manifests: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the network that a stage used, or else the victim that it is about."""
    seen: set[str] = set()
    waiting = [manifest]
    while waiting:
        one = waiting.pop(0)
        network = one.get("network")
        if isinstance(network, dict):
            return str(network.get("kind"))
        needs = one.get("needs")
        keys = needs.values() if isinstance(needs, dict) else ()
        for key in keys:
            # A damaged store may have a circle.
            if isinstance(key, str) and key in manifests and key not in seen:
                seen.add(key)
                waiting.append(manifests[key])
    return ""


def _epochs(fields: Mapping[str, Any]) -> int:
    epochs = fields.get("epochs")
    return epochs if type(epochs) is int and epochs > 0 else 1


def _is_time(seconds: Any) -> TypeGuard[float]:
    return isinstance(seconds, int | float) and 0 <= seconds < float("inf")
