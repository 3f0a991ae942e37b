"""Whether the user's own images can be read, before anything is run on them."""

from raybd.cells.data import load_data
from raybd.plan.todo import Plan


def check_own_images(plan: Plan) -> None:
    """Read the images of the data sets that a plan still needs and whose place the user names.

    Raises UserError that names the first one that is broken, or has another size than the others.
    Reading takes as long as it does once in a run.
    """
    needed = {stage.data: stage.dataset for stage in plan.stages.values()}
    for data, dataset in needed.items():
        if getattr(dataset.config, "path", None) is not None:
            load_data(dataset, data)
