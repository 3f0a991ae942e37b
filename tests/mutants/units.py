"""Faults in the tools about units, in their drawings, and in the plots."""

from tests.mutants.fault import Fault

UNITS = "raybd/analyses/_units.py"
TAC = "raybd/analyses/tac.py"
QUALITY = "raybd/analyses/quality.py"
NEURONS = "raybd/analyses/neuron_activation.py"
TOP = "raybd/analyses/top_images.py"
MAPS = "raybd/analyses/feature_map.py"
CLASSES = "raybd/analyses/activation_distribution.py"
LIPSCHITZ = "raybd/analyses/lipschitz.py"
NETWORK = "raybd/analyses/network.py"
SEPARABILITY = "raybd/analyses/separability.py"
DRIFT = "raybd/analyses/embedding_drift.py"
SECTION = "raybd/report/analyses/section.py"
SCALE = "raybd/report/svg/scale.py"
SERIES = "raybd/report/svg/series.py"
BARS = "raybd/report/svg/bars.py"
PLOT = "raybd/report/svg/plot.py"
TESTS = "tests/analyses"
SVG = ("tests/report/svg/test_svg.py",)
DRAWN = ("tests/report/analyses/test_drawings.py",)

FAULTS = (
    Fault(
        "units-tokens-as-channels",
        UNITS,
        "if last or out.dim() == 3:",
        "if out.dim() == 4 and last:",
        "the tokens of a layer are taken for its units",
        (f"{TESTS}/test_tac_layers.py",),
    ),
    Fault(
        "units-maximum-is-the-mean",
        UNITS,
        "return units_BCT.amax(2)",
        "return units_BCT.mean(2)",
        "the reduction max is the mean",
        (f"{TESTS}/test_neuron_activation.py",),
    ),
    Fault(
        "units-change-without-images-of-the-other",
        UNITS,
        "victim.embed(both_BCHW[:, x_NCHW.shape[1] :])",
        "victim.embed(both_BCHW[:, : x_NCHW.shape[1]])",
        "the change is that between an image and itself",
        (f"{TESTS}/test_tac.py", "-k", "by_hand"),
    ),
    Fault(
        "tac-powers-swapped",
        TAC,
        'power = 2 if self.norm == "l2" else 1',
        'power = 1 if self.norm == "l2" else 2',
        "TAC's two norms are swapped",
        (f"{TESTS}/test_tac.py", "-k", "by_hand"),
    ),
    Fault(
        "quality-peak-of-256",
        QUALITY,
        "20 * torch.log10(255 / error_N)",
        "20 * torch.log10(1 / error_N)",
        "PSNR is that of images in 0..1",
        (f"{TESTS}/test_quality.py",),
    ),
    Fault(
        "quality-bands-of-the-sides-alone",
        QUALITY,
        "radius_HW / 0.5**0.5 * BANDS",
        "radius_HW / 0.5 * BANDS",
        "the bands end at the side of the spectrum",
        (f"{TESTS}/test_quality.py",),
    ),
    Fault(
        "quality-counts-values",
        QUALITY,
        "(change_NCHW != 0).any(1).double()",
        "(change_NCHW > 0).any(1).double()",
        "pixels that get darker are not counted",
        (f"{TESTS}/test_quality.py",),
    ),
    Fault(
        "neurons-effect-turned",
        NEURONS,
        "(stamped_NC.mean(0) - clean_NC.mean(0)) / deviation_C",
        "(clean_NC.mean(0) - stamped_NC.mean(0)) / deviation_C",
        "Cohen's d has the other sign",
        (f"{TESTS}/test_neuron_activation.py",),
    ),
    Fault(
        "neurons-deviations-added",
        NEURONS,
        "((clean_NC.var(0) + stamped_NC.var(0)) / 2).sqrt()",
        "(clean_NC.var(0) + stamped_NC.var(0)).sqrt()",
        "Cohen's d is by the summed variance",
        (f"{TESTS}/test_neuron_activation.py",),
    ),
    Fault(
        "top-images-of-least-activation",
        TOP,
        "dim=0, descending=True)[:k]",
        "dim=0)[:k]",
        "the images that excite a unit least are taken",
        (f"{TESTS}/test_top_images.py",),
    ),
    Fault(
        "top-images-count-one-early",
        TOP,
        "stamped_KC = top_KC >= count",
        "stamped_KC = top_KC >= count - 1",
        "the last image without the trigger counts as a triggered one",
        (f"{TESTS}/test_top_images.py",),
    ),
    Fault(
        "feature-map-stamped-swapped",
        MAPS,
        "[False] * channels + [True] * channels",
        "[True] * channels + [False] * channels",
        "the two maps are swapped",
        (f"{TESTS}/test_feature_map.py",),
    ),
    Fault(
        "classes-counted-of-one-less",
        CLASSES,
        "descending=True)[: len(pairs)]",
        "descending=True)[: len(pairs) - 1]",
        "one top image of each unit is not counted",
        (f"{TESTS}/test_activation_distribution.py",),
    ),
    Fault(
        "lipschitz-change-before-the-norm",
        LIPSCHITZ,
        "read_at[call.name] = names[norm]",
        "read_at[call.name] = call.name",
        "the change is read before the normalisation",
        (f"{TESTS}/test_lipschitz.py",),
    ),
    Fault(
        "lipschitz-columns-of-a-linear-layer",
        LIPSCHITZ,
        "double().norm(dim=1)",
        "double().norm(dim=0)",
        "a linear layer's bounds are those of its inputs",
        (f"{TESTS}/test_lipschitz.py",),
    ),
    Fault(
        "network-counts-what-is-inside",
        NETWORK,
        "module.parameters(recurse=False)",
        "module.parameters()",
        "the parameters of a module are counted for its container",
        (f"{TESTS}/test_network.py",),
    ),
    Fault(
        "network-counts-operations",
        NETWORK,
        ".values()) // 2",
        ".values())",
        "a multiply-accumulate counts twice",
        (f"{TESTS}/test_network.py",),
    ),
    Fault(
        "separability-on-the-images-of-its-direction",
        SEPARABILITY,
        "poison_MD[1 - first :: 2] @ direction_D, clean_ND[1 - first :: 2] @ direction_D",
        "poison_MD[first::2] @ direction_D, clean_ND[first::2] @ direction_D",
        "the AUROC is measured on the images that chose the direction",
        (f"{TESTS}/test_separability.py",),
    ),
    Fault(
        "separability-all-clean-images",
        SEPARABILITY,
        "(role_N == CLEAN) & (train.y_N == target)",
        "role_N == CLEAN",
        "clean images of all classes are compared",
        (f"{TESTS}/test_separability.py",),
    ),
    Fault(
        "drift-without-centring",
        DRIFT,
        "x_ND = x_ND.double() - x_ND.double().mean(0)",
        "x_ND = x_ND.double()",
        "CKA is not centred",
        (f"{TESTS}/test_embedding_drift.py",),
    ),
    Fault(
        "drift-of-itself",
        DRIFT,
        "other = reduced(given.twin, x_NCHW",
        "other = reduced(given.victim, x_NCHW",
        "the victim is compared with itself",
        (f"{TESTS}/test_embedding_drift.py",),
    ),
    Fault(
        "analyses-twins-use-up-the-room",
        SECTION,
        'rows.loc[rows["stage"] != "twin", "victim"]',
        'rows["victim"]',
        "clean twins count among the victims that are drawn",
        ("tests/report/analyses/test_section.py",),
    ),
    Fault(
        "svg-upside-down",
        PLOT,
        "Scale(y_low, y_high, plot.height - BOTTOM, TOP, plot.log_y)",
        "Scale(y_low, y_high, TOP, plot.height - BOTTOM, plot.log_y)",
        "plots are upside down",
        SVG,
    ),
    Fault(
        "svg-log-as-linear",
        SCALE,
        "return math.log10(value) if self.log else value",
        "return value",
        "a log axis is linear",
        SVG,
    ),
    Fault(
        "svg-lines-over-gaps",
        SERIES,
        "            runs.append([])\n",
        "            pass\n",
        "a line goes on where numbers are missing",
        SVG,
    ),
    Fault(
        "svg-stacks-on-the-floor",
        BARS,
        "low = base[place] if stacked else floor",
        "low = floor",
        "stacked bars cover each other",
        SVG,
    ),
    Fault(
        "svg-titles-as-markup",
        PLOT,
        'f"<title>{escape(plot.title)}</title>{described}"',
        'f"<title>{plot.title}</title>{described}"',
        "the title of a plot becomes markup",
        SVG,
    ),
    Fault(
        "drawing-each-victim-its-scale",
        "raybd/report/analyses/tac.py",
        "y_range=most,",
        "y_range=None,",
        "a victim and its twin are drawn on scales of their own",
        DRAWN,
    ),
)
