"""How long victims are trained, and how many copies get triggers, in a budget of minutes.

A short measurement on this machine decides. What was decided is kept in the store, so that a scan
that goes on, or is repeated, takes the same decision.
"""

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

from torch import Generator

from raybd.results.store import Store
from raybd.trainers.supervised import Supervised
from raybd.types.data import Split
from raybd.types.models import Network

RATES = (0.08, 0.03, 0.01)
"""Shares of the data set that triggers of each kind are planted into, one after the other."""
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
    rates: tuple[float, ...]
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
    """Return how many epochs, and which rates of planted triggers, the budget allows for.

    First fewer copies with triggers are made, down to one, then victims are trained for less time,
    and last there is no copy. It is never less than a pass of FEWEST_EPOCHS epochs.
    """
    budget = RESERVE * 60 * minutes
    steps_in_epoch = max(1, images // RECIPE["batch_size"])
    usual = min(MOST_EPOCHS, max(USUAL_EPOCHS, STEPS // steps_in_epoch))

    def seconds(epochs: int, rates: int) -> float:
        return (1 + rates) * folds * epochs * images * per_image * DETECTION

    for rates in range(len(RATES), 0, -1):
        if seconds(usual, rates) <= budget:
            return Decision(usual, RATES[:rates], seconds(usual, rates))
    for rates in (1, 0):
        epochs = int(budget / seconds(1, rates))
        if epochs >= FEWEST_EPOCHS:
            epochs = min(epochs, usual)
            return Decision(epochs, RATES[:rates], seconds(epochs, rates))
    return Decision(FEWEST_EPOCHS, (), seconds(FEWEST_EPOCHS, 0))


def remembered(store: Store, key: str, minutes: float) -> Decision | None:
    """Return what was decided before for this scan and this budget."""
    data = store.read_if_there(_path(key, minutes))
    if data is None:
        return None
    try:
        found = json.loads(data)
        decision = Decision(int(found["epochs"]), tuple(found["rates"]), float(found["seconds"]))
    # Whatever else stands there is no decision, and is replaced by one.
    except (ValueError, LookupError, TypeError):
        return None
    possible = 1 <= decision.epochs <= MOST_EPOCHS and set(decision.rates) <= set(RATES)
    return decision if possible else None


def remember(store: Store, key: str, minutes: float, decision: Decision) -> None:
    """Keep a decision."""
    store.write(_path(key, minutes), json.dumps(asdict(decision)).encode())


def _path(key: str, minutes: float) -> str:
    return f"scans/{key}/budget-{minutes:g}.json"
