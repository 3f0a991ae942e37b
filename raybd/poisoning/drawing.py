"""The draw of the images that are poisoned."""

import torch
from torch import Generator, Tensor

from raybd.types.data import LabelMap
from raybd.types.errors import Infeasible


def draw(y_N: Tensor, num_classes: int, rate: float, labels: LabelMap, rng: Generator) -> Tensor:
    """Return round(rate * N) rows, drawn uniformly from those that the label map allows, ascending.

    Raises Infeasible if there are fewer, or if a target is no class of the data set, or a class
    without training images.
    """
    wanted = labels.relabel(y_N, num_classes)  # raises Infeasible if a class does not exist
    empty = set(wanted.unique().tolist()) - set(y_N.unique().tolist())
    if empty:
        raise Infeasible(
            f"class {min(empty)} has no training image, so that it would hold poison alone"
        )

    allowed = torch.nonzero(labels.eligible(y_N)).flatten()
    count = round(rate * len(y_N))
    if count > len(allowed):
        raise Infeasible(
            f"rate {rate:g} of {len(y_N)} training images is {count}, but the label map allows "
            f"only {len(allowed)} (at most {len(allowed) / len(y_N):.4g})"
        )
    # A cell without poison would count as an attack that fails.
    if count == 0:
        raise Infeasible(f"rate {rate:g} of {len(y_N)} training images is not even one image")

    # The permutation does not depend on the count: a higher rate poisons these rows and more.
    # Ascending rows are the contract of `choose`.
    return allowed[torch.randperm(len(allowed), generator=rng)[:count]].sort().values


def draw_of_class(
    y_N: Tensor, num_classes: int, rate: float, labels: LabelMap, rng: Generator
) -> Tensor:
    """Return a share of the rows that the label map allows, like those of the target class.

    Drawn as `draw` does. Raises Infeasible if it is not even one.
    """
    allowed = int(labels.eligible(y_N).sum())
    count = round(rate * allowed)
    if allowed and count == 0:
        raise Infeasible(f"rate {rate:g} of {allowed} images of the class is not even one image")
    return draw(y_N, num_classes, count / len(y_N), labels, rng)


def draw_cross(
    y_N: Tensor, chosen_M: Tensor, rate: float, allowed_N: Tensor, rng: Generator
) -> Tensor:
    """Return round(rate * N) of the allowed rows, none of which is in `chosen_M`, ascending.

    Raises Infeasible if there are fewer.
    """
    count, free = check_cross(y_N, chosen_M, rate, allowed_N)
    return free[torch.randperm(len(free), generator=rng)[:count]].sort().values


def check_cross(
    y_N: Tensor, chosen_M: Tensor, rate: float, allowed_N: Tensor | None = None
) -> tuple[int, Tensor]:
    """Return how many rows `draw_cross` takes, and from which. Raises Infeasible as it does.

    Without `allowed_N` all are allowed. An attack's `choose` calls it, so that a plan tells before
    anything runs.
    """
    free_N = torch.ones_like(y_N, dtype=torch.bool) if allowed_N is None else allowed_N.clone()
    free_N[chosen_M] = False

    free = torch.nonzero(free_N).flatten()
    count = round(rate * len(y_N))
    # Unlike poison, covers may be none: a rate of 0 is an attack without them.
    if count > len(free):
        raise Infeasible(
            f"cross rate {rate:g} of {len(y_N)} training images is {count}, but only {len(free)} "
            f"are left for it (at most {len(free) / len(y_N):.4g})"
        )
    return count, free
