"""What a method promises about the shapes of what it returns.

A method of the user's own that breaks a promise would else end in an error of torch, which names
neither the method nor what was expected.
"""

from torch import Tensor

from raybd.types.data import Poisoned, Split
from raybd.types.errors import UserError
from raybd.types.verdicts import Suspicion


def check_verdict(name: str, verdict: Suspicion, suspects: int) -> None:
    """Raise UserError unless a verdict has a score for each suspect, and one or as many thresholds.

    `name` is that of the method.
    """
    where = f"{name}: Suspicion"
    hint = "Return one score for each suspect, in their order: see `score` in raybd.types.methods."
    _check_shape(f"{where}.score_N", verdict.score_N, [(suspects,)], hint)
    one_or_each: list[tuple[int, ...]] = [(suspects,), (1,), ()]
    _check_shape(f"{where}.threshold_N", verdict.threshold_N, one_or_each, hint)


def check_overlay(name: str, poisoned: Poisoned, train: Split) -> None:
    """Raise UserError unless an overlay has rows of the training set, and images of its size."""
    where = f"{name}: Poisoned"
    hint = "Return the overlay that `raybd.poisoning.overlay.overlay` makes, or one like it."
    rows = len(poisoned.index_M)
    image = tuple(train.x_NCHW.shape[1:])
    expected: dict[str, tuple[int, ...]] = {
        "index_M": (rows,),
        "x_MCHW": (rows, *image),
        "y_M": (rows,),
        "role_M": (rows,),
    }
    for field, shape in expected.items():
        _check_shape(f"{where}.{field}", getattr(poisoned, field), [shape], hint)
    if poisoned.x_MCHW.dtype != train.x_NCHW.dtype:
        raise UserError(
            f"{where}.x_MCHW holds {poisoned.x_MCHW.dtype}; expected {train.x_NCHW.dtype}",
            hint,
            exit_code=1,
        )
    outside = rows and not 0 <= int(poisoned.index_M.min()) <= int(poisoned.index_M.max()) < len(
        train
    )
    if outside:
        raise UserError(
            f"{where}.index_M names row {int(poisoned.index_M.max())}; the training set has "
            f"{len(train)} rows, from 0",
            hint,
            exit_code=1,
        )


def _check_shape(what: str, found: Tensor, expected: list[tuple[int, ...]], hint: str) -> None:
    if tuple(found.shape) not in expected:
        wanted = " or ".join(str(list(shape)) for shape in expected)
        raise UserError(
            f"{what} has the shape {list(found.shape)}; expected {wanted}", hint, exit_code=1
        )
