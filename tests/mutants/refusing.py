"""Faults in the detectors of inputs: scale_up, ibd_psc, ted, teco and sentinet."""

from tests.mutants.fault import Fault

INPUTS = "raybd/detectors/_inputs.py"
SCALE_UP = "raybd/detectors/scale_up.py"
IBD_PSC = "raybd/detectors/ibd_psc.py"
TED = "raybd/detectors/ted/__init__.py"
RANKS = "raybd/detectors/ted/ranks.py"
TECO = "raybd/detectors/teco/__init__.py"
CORRUPTIONS = "raybd/detectors/teco/corruptions.py"
SENTINET = "raybd/detectors/sentinet.py"


def of(kind: str) -> tuple[str, ...]:
    """Return the tests of a detector."""
    return (f"tests/detectors/test_{kind}.py",)


def held(kind: str) -> tuple[str, ...]:
    """Return the test of what a threshold comes from."""
    test = "test_the_threshold_is_that_of_images_which_were_not_learned_from"
    return (f"tests/contracts/test_held_images.py::{test}[{kind}]",)


FAULTS = (
    Fault(
        "inputs-threshold-from-learned",
        INPUTS,
        "clean.select(order[half:])",
        "clean.select(order)",
        "the threshold comes from images that were learned from, too",
        held("scale_up"),
    ),
    Fault(
        "scale-up-counts-the-image",
        SCALE_UP,
        "for factor in self.factors:",
        "for factor in (1, *self.factors):",
        "the image itself is one of the scaled ones",
        of("scale_up"),
    ),
    Fault(
        "scale-up-not-clipped",
        SCALE_UP,
        "(factor * x_BCHW).clamp_(max=255)",
        "(factor * x_BCHW)",
        "products pass white",
        of("scale_up"),
    ),
    Fault(
        "scale-up-one-class-for-all",
        SCALE_UP,
        "[of(rows_R) if len(rows_R) >= self.fewest else every_2 for rows_R in members]",
        "[every_2 for rows_R in members]",
        "a class is compared with all trusted images",
        of("scale_up"),
    ),
    Fault(
        "scale-up-sign",
        SCALE_UP,
        "(consistency_N - row_N2[:, 0]) / row_N2[:, 1]",
        "(row_N2[:, 0] - consistency_N) / row_N2[:, 1]",
        "what changes its prediction is suspected",
        of("scale_up"),
    ),
    Fault(
        "ibd-psc-first-layers",
        IBD_PSC,
        "for norm in norms[-count:]",
        "for norm in norms[:count]",
        "the first layers are amplified",
        of("ibd_psc"),
    ),
    Fault(
        "ibd-psc-one-layer-later",
        IBD_PSC,
        "range(fewest, min(fewest + self.models, len(norms) + 1))",
        "range(fewest + 1, min(fewest + 1 + self.models, len(norms) + 1))",
        "the first model amplifies one layer more than the fewest",
        of("ibd_psc"),
    ),
    Fault(
        "ibd-psc-right-for-wrong",
        IBD_PSC,
        "predictions(infer(victim, clean.x_NCHW)) != clean.y_N",
        "predictions(infer(victim, clean.x_NCHW)) == clean.y_N",
        "the layers are chosen by accuracy, where the error should be large",
        of("ibd_psc"),
    ),
    Fault(
        "ibd-psc-sum-for-mean",
        IBD_PSC,
        "math.log(len(counts)) - torch",
        "-torch",
        "probabilities are summed over the models",
        of("ibd_psc"),
    ),
    Fault(
        "ted-rank-from-one",
        RANKS,
        "(far_BM < nearest_B1).sum(1)",
        "(far_BM <= nearest_B1).sum(1)",
        "ranks begin at one",
        of("ted"),
    ),
    Fault(
        "ted-compared-with-itself",
        RANKS,
        "far_BM.fill_diagonal_(torch.inf)",
        "pass",
        "a trusted image is its own nearest",
        of("ted"),
    ),
    Fault(
        "ted-any-class",
        RANKS,
        "far_BM.masked_fill(~same_BM, torch.inf)",
        "far_BM.masked_fill(same_BM, torch.inf)",
        "the nearest image of another class counts",
        of("ted"),
    ),
    Fault(
        "ted-wrong-predictions-too",
        TED,
        "class_M == learned.y_N",
        "class_M == class_M",
        "inputs are compared with images that are predicted wrong",
        of("ted"),
    ),
    Fault(
        "ted-flat-directions",
        RANKS,
        "variance_L.flip(0), direction_LL.flip(1)",
        "variance_L, direction_LL",
        "the directions of least variance are kept",
        of("ted"),
    ),
    Fault(
        "teco-cumulative",
        TECO,
        "                turned_BT[kept_R[changed_R], column] = severity\n",
        "                turned_BT[kept_R[changed_R], column] = severity\n"
        "                x_BCHW[kept_R] = worse\n",
        "each corruption starts from what the last one has left",
        of("teco"),
    ),
    Fault(
        "teco-last-severity-for-none",
        TECO,
        "SEVERITIES + 1, device",
        "SEVERITIES, device",
        "an image that never changes counts as changed by the last severity",
        of("teco"),
    ),
    Fault(
        "teco-place-chooses-the-draw",
        TECO,
        "x_BCHW.long().sum((1, 2, 3)) % len(drawn)",
        "torch.arange(len(x_BCHW)) % len(drawn)",
        "the place in the batch chooses the noise",
        of("teco"),
    ),
    Fault(
        "teco-sample-deviation",
        TECO,
        ".std(1, correction=0)",
        ".std(1)",
        "the deviation is that of a sample",
        of("teco"),
    ),
    Fault(
        "teco-contrast-grows",
        CORRUPTIONS,
        "mean_BC11 + kept * (x_BCHW - mean_BC11)",
        "mean_BC11 + (x_BCHW - mean_BC11) / kept",
        "contrast grows",
        of("teco"),
    ),
    Fault(
        "sentinet-outside-the-region",
        SENTINET,
        "torch.where(region_B1HW, x_BCHW, other_CHW)",
        "torch.where(region_B1HW, other_CHW, x_BCHW)",
        "all but the region is pasted",
        of("sentinet"),
    ),
    Fault(
        "sentinet-lowest-positions",
        SENTINET,
        "descending=True, stable=True",
        "descending=False, stable=True",
        "the region is where the map is lowest",
        of("sentinet"),
    ),
    Fault(
        "sentinet-no-relu",
        SENTINET,
        ".sum(1).relu().float()",
        ".sum(1).abs().float()",
        "what speaks against the class is in the region",
        of("sentinet"),
    ),
    Fault(
        "sentinet-bottom-of-bins",
        SENTINET,
        "points[bins == one, 1].argmax()",
        "points[bins == one, 1].argmin()",
        "the curve goes through the least fooled share of each bin",
        of("sentinet"),
    ),
    Fault(
        "sentinet-not-raised",
        SENTINET,
        "coefficients[-1] += raised",
        "coefficients[-1] -= raised",
        "the curve is lowered",
        of("sentinet"),
    ),
)
