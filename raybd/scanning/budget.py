"""How long victims are trained, and how many copies get triggers, in a budget of minutes.

A short measurement on this machine decides. What was decided is kept in the store, so that a scan
that goes on, or is repeated, takes the same decision.
"""

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

from torch import Generator

from raybd.canaries.known_triggers import Strength
from raybd.results.store import Store
from raybd.trainers.supervised import Supervised
from raybd.types.data import Split
from raybd.types.models import Network

COPIES: tuple[tuple[float, Strength], ...] = ((0.08, "faint"), (0.08, "strong"), (0.03, "strong"))
"""The copies of the data set with planted triggers, in their order: which share of it each kind is
given, and how clear the triggers are. How faint the attacker's is, nobody knows: a scan with one
copy states what it finds at least, and one with two a range."""
STEPS = 2000
"""Steps of a training that sees enough of a small data set to learn a trigger."""
MOST_EPOCHS, USUAL_EPOCHS, FEWEST_EPOCHS = 100, 30, 6
MEASURED_IMAGES = 512
DETECTION = 1.4
"""Time of a victim with its detectors, in units of its training."""
RESERVE = 0.85
"""Share of the budget that is planned for: images are read, pages are written."""
RECIPE: dict[str, Any] = {"lr": 0.05, "batch_size": 32, "augment": "none"}
"""How victims are trained. Augmentation would hide or move a trigger."""


@dataclass(frozen=True)
class Decision:
    """What a budget allows for."""

    epochs: int
    copies: int
    """How many of COPIES, from the first on."""
    seconds: float
    """Estimated time of all passes."""

    def trainer(self) -> Supervised:
        """Return how victims are trained."""
        return Supervised(epochs=self.epochs, **RECIPE)


def seconds_per_image(network: Network, images: Split, num_classes: int) -> float:
    """Return the time that one image takes in one epoch, measured on a few of them."""
    few = Split(images.x_NCHW[:MEASURED_IMAGES], images.y_N[:MEASURED_IMAGES])
    times = []
    # The first run also loads libraries and warms up.
    for _ in range(2):
        began = time.monotonic()
        recipe = Supervised(epochs=1, **RECIPE)
        recipe.train(few, num_classes, network, Generator().manual_seed(0))
        times.append(time.monotonic() - began)
    return min(times) / len(few)


def decide(images: int, folds: int, per_image: float, minutes: float) -> Decision:
    """Return how many epochs, and how many copies with triggers, the budget allows for.

    First fewer copies with triggers are made, down to one, then victims are trained for less time,
    and last there is no copy. It is never less than a pass of FEWEST_EPOCHS epochs.
    """
    budget = RESERVE * 60 * minutes
    steps_in_epoch = max(1, images // RECIPE["batch_size"])
    usual = min(MOST_EPOCHS, max(USUAL_EPOCHS, STEPS // steps_in_epoch))

    def seconds(epochs: int, copies: int) -> float:
        return (1 + copies) * folds * epochs * images * per_image * DETECTION

    for copies in range(len(COPIES), 0, -1):
        if seconds(usual, copies) <= budget:
            return Decision(usual, copies, seconds(usual, copies))
    for copies in (1, 0):
        epochs = int(budget / seconds(1, copies))
        if epochs >= FEWEST_EPOCHS:
            epochs = min(epochs, usual)
            return Decision(epochs, copies, seconds(epochs, copies))
    return Decision(FEWEST_EPOCHS, 0, seconds(FEWEST_EPOCHS, 0))


def remembered(store: Store, key: str, minutes: float) -> Decision | None:
    """Return what was decided before for this scan and this budget."""
    data = store.read_if_there(_path(key, minutes))
    if data is None:
        return None
    try:
        found = json.loads(data)
        decision = Decision(int(found["epochs"]), int(found["copies"]), float(found["seconds"]))
    # Whatever else stands there is no decision, and is replaced by one.
    except (ValueError, LookupError, TypeError):
        return None
    possible = 1 <= decision.epochs <= MOST_EPOCHS and 0 <= decision.copies <= len(COPIES)
    return decision if possible else None


def remember(store: Store, key: str, minutes: float, decision: Decision) -> None:
    """Keep a decision."""
    store.write(_path(key, minutes), json.dumps(asdict(decision)).encode())


def _path(key: str, minutes: float) -> str:
    return f"scans/{key}/budget-{minutes:g}.json"
