"""Score: a detector's suspicion of each sample, compared with the truth."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Generator

from raybd.cells.judging import auroc_outside_trigger, intermediate_metrics, judge, shown_pairs
from raybd.cells.loading import load_poisoned, load_victim
from raybd.cells.pools import Pool, test_pool, training_pool, trusted_images
from raybd.cells.row_names import name_tensors
from raybd.cells.stage import (
    Facts,
    OnVictim,
    ResourceRole,
    Result,
    Stage,
    VictimStage,
    random_stream,
)
from raybd.cells.wanted import Wanted
from raybd.metrics.catalogue import DETECTION
from raybd.metrics.classification import predictions
from raybd.registry import Method
from raybd.results.store import Store
from raybd.stages.features import Features
from raybd.training.inference import infer
from raybd.training.runtime import judged_by
from raybd.types.data import Dataset, Poisoned
from raybd.types.methods import Detector, StreamDetector
from raybd.types.models import Victim

SCORED = (*DETECTION, "n_scores", "n_flagged")
"""The columns that come from the verdict of a detector."""


@dataclass(frozen=True, kw_only=True)
class Score(OnVictim):
    """The verdict of a detector on the victim's training set, or on a stream of test inputs."""

    name = "score"
    version = 2
    features: Features | None = None
    """What the detector reads of all training images, computed once for all detectors."""

    @classmethod
    def for_cell(cls, wanted: Wanted) -> "Score | None":
        """Every cell with a detector has one."""
        if wanted.defense is None or not wanted.defends_by("detectors"):
            return None
        return cls.of(wanted.victim, wanted.defense)

    @classmethod
    def of(cls, victim: VictimStage, method: Method) -> "Score":
        """Return the stage of a detector on a victim."""
        detector = cast(Detector, method.config)
        # Test inputs are those of the victim's own data set, whatever its encoder was trained on.
        if detector.scored_pool == "test":
            return cls(
                method=method,
                seed=victim.seed,
                dataset=victim.dataset,
                data=victim.data,
                victim=victim,
            )

        # A probe's poison is in the training set of its encoder.
        trained = victim.encoder_stage or victim
        features = None
        # A detector that reads neither must not wait for them.
        if detector.reads:
            features = Features(
                method=victim.method,
                seed=victim.seed,
                dataset=trained.dataset,
                data=trained.data,
                victim=victim,
            )
        return cls(
            method=method,
            seed=victim.seed,
            dataset=trained.dataset,
            data=trained.data,
            victim=victim,
            features=features,
        )

    @property
    def resource_role(self) -> ResourceRole:
        """Detectors have resources of their own."""
        return "detectors"

    @property
    def suspicion(self) -> Stage:
        """Itself."""
        return self

    @property
    def costs(self) -> tuple[Stage, ...]:
        """Shared features count for each detector: a row tells what it costs on its own."""
        return (self.features, self) if self.features is not None else (self,)

    def run(self, store: Store, dataset: Dataset) -> Result:
        """Score the pool in a random order, so that its order tells nothing."""
        return self.run_again(store, dataset, run=0)

    def run_again(self, store: Store, dataset: Dataset, run: int) -> Result:
        """Score with the random stream of a further run."""
        detector = cast(Detector, self.method.config)
        poisoned = load_poisoned(self.overlay_stage, store)
        victim = load_victim(self.victim, store)
        # "score" for the control, too: it differs from the detector's run by the victim alone.
        rng = random_stream("score", self.seed, run)

        if detector.scored_pool == "train":
            pool = self._with_features(training_pool(dataset, poisoned), store)
            return self._score_set(victim, dataset, poisoned, pool, rng)
        pool = test_pool(victim, dataset, poisoned)
        if isinstance(detector, StreamDetector):
            return self._score_stream(detector, victim, dataset, poisoned, pool, rng)
        return self._score_set(victim, dataset, poisoned, pool, rng)

    def _with_features(self, pool: Pool, store: Store) -> Pool:
        if self.features is None:
            return pool
        # A store of an older version holds embeddings alone; a detector then computes the logits.
        tensors = store.load(self.features.name, self.features.key).tensors
        suspects = replace(pool.suspects, z_ND=tensors["z_ND"], logits_NK=tensors.get("logits_NK"))
        return replace(pool, suspects=suspects)

    def _score_set(
        self, victim: Victim, dataset: Dataset, poisoned: Poisoned, pool: Pool, rng: Generator
    ) -> Result:
        detector = cast(Detector, self.method.config)
        order = torch.randperm(len(pool.suspects), generator=rng)
        trusted = trusted_images(self.method, self.seed, dataset, poisoned)
        pool = pool.shuffled(order)  # the images of the other order are freed here

        with judged_by(lambda score_N: intermediate_metrics(score_N, pool)):
            verdict = detector.score(victim, pool.suspects, trusted, rng)
        # In the test pool, labels are the victim's predictions.
        given = detector.scored_pool == "train"
        tensors, facts = judge(self.method.name, verdict, pool, torch.argsort(order), given)
        tensors |= name_tensors(dataset, detector.scored_pool, tensors["index_N"])
        return Result(
            tensors, {**facts, "pool": detector.scored_pool, "auroc_outside_trigger": None}
        )

    def _score_stream(
        self,
        detector: StreamDetector,
        victim: Victim,
        dataset: Dataset,
        poisoned: Poisoned,
        pool: Pool,
        rng: Generator,
    ) -> Result:
        order = torch.randperm(len(pool.suspects), generator=rng)
        trusted = trusted_images(self.method, self.seed, dataset, poisoned)
        # Before it sees a suspect.
        learned = detector.learn(victim, trusted, rng)
        shuffled = pool.shuffled(order)
        verdict = learned(shuffled.suspects)

        tensors, facts = judge(
            self.method.name, verdict, shuffled, torch.argsort(order), labels_are_given=False
        )
        tensors |= name_tensors(dataset, "test", tensors["index_N"])
        # From the pool before the shuffle: every detector then shows the same images.
        tensors |= shown_pairs(learned, verdict, pool)
        if self.screens_training_set:
            # As in the stream: the labels are what the victim says.
            predicted_N = predictions(infer(victim, dataset.train.x_NCHW))
            downstream = learned(replace(dataset.train, y_N=predicted_N))
            tensors["train_flagged_N"] = (downstream.score_N > downstream.threshold_N).cpu()
        outside = auroc_outside_trigger(verdict, shuffled, dataset)
        return Result(tensors, {**facts, "pool": "test", "auroc_outside_trigger": outside})

    @property
    def screens_training_set(self) -> bool:
        """Whether the training set of a probe is screened, too, by what scores the stream."""
        return self.victim.encoder_stage is not None

    def columns(self, facts: Mapping[str, Any]) -> Facts:
        """How well the detector found the poison."""
        # An artefact of an older version lacks the measures that were added later.
        found = {name: facts.get(name) for name in SCORED}
        return {**found, "auroc_outside_trigger": facts["auroc_outside_trigger"]}
