"""Runs as event files of TensorBoard, for its tab HPARAMS: one folder for each cell."""

from collections.abc import Sequence
from pathlib import Path

from raybd.export.runs import Run


def write_events(runs: Sequence[Run], folder: Path) -> int:
    """Write the runs that the folder does not have; return how many these were.

    `tensorboard --logdir FOLDER` shows them.
    """
    # Imported here: it comes with Ray, and takes long.
    from tensorboardX import SummaryWriter

    written = 0
    for run in runs:
        place = folder / run.experiment / run.cell
        # The folder gets its name when all is in it.
        temporary = place.with_name(f".{place.name}")
        if place.exists():
            continue
        with SummaryWriter(logdir=str(temporary)) as writer:
            writer.add_hparams(dict(run.parameters), dict(run.metrics), name=".")
        temporary.rename(place)
        written += 1
    return written
