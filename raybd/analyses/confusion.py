"""Confusion: how often images of each class are given each label, without and with the trigger.

BackdoorBench, Wu et al. 2022, arXiv 2206.12654, its confusion matrix of the analysis tools.
Differs: from the stored predictions; test images with the trigger have a matrix of their own.
"""

from typing import TYPE_CHECKING, ClassVar

from torch import Generator

from raybd.types.kept import Stored
from raybd.types.methods import Analysis, AnalysisInput

if TYPE_CHECKING:
    import pyarrow as pa


class Confusion(Analysis):
    """Counts of test images by true label and by the label that the victim gives."""

    looks_at_twin: ClassVar[bool] = True
    reads: ClassVar[frozenset[Stored]] = frozenset({"predictions"})

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return pool, true, wanted, pred and n; `pred` is null for inputs that were refused.

        Pairs of labels without images have no row. `wanted` is the attacker's label, with the
        trigger only.
        """
        import pyarrow as pa

        rows = given.predictions
        assert rows is not None
        labels = {name: rows[name].cast(pa.int32()) for name in ("true", "wanted", "pred")}
        table = pa.table({"pool": rows["pool"].cast(pa.string()), **labels})
        counted = table.group_by(["pool", *labels]).aggregate([([], "count_all")])
        counted = counted.rename_columns(["pool", *labels, "n"])
        order = [(name, "ascending") for name in ("pool", *labels)]
        counted = counted.sort_by(order)
        n = counted.schema.get_field_index("n")
        return counted.set_column(n, "n", counted["n"].cast(pa.int32()))
