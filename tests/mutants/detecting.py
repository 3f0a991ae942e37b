"""Faults in the detectors other than ASSET."""

from tests.mutants.fault import Fault

SPECTRAL = "raybd/detectors/spectral.py"
CLUSTERING = "raybd/detectors/activation_clustering.py"
STRIP = "raybd/detectors/strip.py"
STRIP_ENCODER = "raybd/detectors/strip_encoder.py"
BEATRIX = "raybd/detectors/beatrix/__init__.py"
STATISTICS = "raybd/detectors/beatrix/statistics.py"
DEDE = "raybd/detectors/dede/__init__.py"
PAINTER = "raybd/detectors/dede/painter.py"
DECODER = "raybd/detectors/dede/decoder.py"
TESTS = "tests/detectors"
HELD = (
    "tests/contracts/test_held_images.py"
    "::test_the_threshold_is_that_of_images_which_were_not_learned_from"
)


def in_cells(case: str) -> str:
    """Return the behaviour test of a detector through the stages of a cell."""
    name = "test_it_finds_the_poison_with_its_own_threshold"
    return f"{TESTS}/test_in_cells.py::{name}[{case}]"


FAULTS = (
    Fault(
        "spectral-smallest-direction",
        SPECTRAL,
        ".eigenvectors[:, -1]",
        ".eigenvectors[:, 0]",
        "spectral projects on the direction of least variance",
        (f"{TESTS}/test_spectral.py",),
    ),
    Fault(
        "spectral-not-centered",
        SPECTRAL,
        "centered_ND = z_ND[mine] - z_ND[mine].mean(0)",
        "centered_ND = z_ND[mine]",
        "spectral does not take the mean of a class away",
        (f"{TESTS}/test_spectral.py",),
    ),
    Fault(
        "spectral-signed",
        SPECTRAL,
        "(z_ND @ direction_D).abs().float()",
        "(z_ND @ direction_D).float()",
        "spectral suspects one side of a direction without a sign",
        (f"{TESTS}/test_spectral.py",),
    ),
    Fault(
        "spectral-flags-the-rest",
        SPECTRAL,
        "torch.quantile(score_N[mine], 1 - self.remove)",
        "torch.quantile(score_N[mine], self.remove)",
        "spectral flags all but its share",
        (f"{TESTS}/test_spectral.py",),
    ),
    Fault(
        "spectral-threshold-from-suspects",
        SPECTRAL,
        "return Suspicion(score_N, torch.quantile(torch.cat(held), 1 - self.fpr))",
        "return Suspicion(score_N, torch.quantile(score_N, 1 - self.fpr))",
        "spectral takes its threshold from the suspects",
        (f"{TESTS}/test_spectral.py", in_cells("spectral-0.1")),
    ),
    Fault(
        "spectral-held-is-fit",
        SPECTRAL,
        "fit_ND, held_ND = trusted_ND[:half], trusted_ND[half:]",
        "fit_ND, held_ND = trusted_ND[:half], trusted_ND[:half]",
        "spectral takes its threshold from the images that gave the spread",
        (f"{HELD}[spectral]",),
    ),
    Fault(
        "spectral-no-whitening",
        "raybd/training/whitening.py",
        "values_D.clamp_min(1e-12).rsqrt()",
        "values_D.clamp_min(1e-12).sqrt()",
        "spectral stretches the directions in which trusted images vary",
        (f"{TESTS}/test_spectral.py", in_cells("spectral-0.1")),
    ),
    Fault(
        "clustering-larger",
        CLUSTERING,
        "return int(share <= 0.5), index",
        "return int(share > 0.5), index",
        "activation clustering suspects the larger cluster",
        (f"{TESTS}/test_activation_clustering.py",),
    ),
    Fault(
        "clustering-more-clean",
        CLUSTERING,
        "suspected = int(inside < share * len(drawn))",
        "suspected = int(inside > share * len(drawn))",
        "activation clustering suspects the cluster that trusted images prefer",
        (f"{TESTS}/test_activation_clustering.py",),
    ),
    Fault(
        "clustering-towards",
        CLUSTERING,
        "axis = centers[suspected] - centers[1 - suspected]",
        "axis = centers[1 - suspected] - centers[suspected]",
        "activation clustering scores towards the other cluster",
        (f"{TESTS}/test_activation_clustering.py",),
    ),
    Fault(
        "clustering-flags-even-halves",
        CLUSTERING,
        "min(share, 1 - share) <= self.largest_share",
        "min(share, 1 - share) >= self.largest_share",
        "activation clustering flags classes that fall into even halves",
        (f"{TESTS}/test_activation_clustering.py",),
    ),
    Fault(
        "clustering-significance",
        CLUSTERING,
        "binom.cdf(held, len(drawn), expected) <= self.significance",
        "binom.cdf(held, len(drawn), expected) >= self.significance",
        "activation clustering flags the classes that look clean",
        (f"{TESTS}/test_activation_clustering.py",),
    ),
    Fault(
        "silhouette-swapped",
        CLUSTERING,
        "(outside_N - inside_N) / widest_N",
        "(inside_N - outside_N) / widest_N",
        "the silhouette has the wrong sign",
        (f"{TESTS}/test_activation_clustering.py",),
    ),
    Fault(
        "strip-entropy",
        STRIP,
        "total_B += (logp_BK.exp() * logp_BK).sum(dim=1)",
        "total_B -= (logp_BK.exp() * logp_BK).sum(dim=1)",
        "STRIP suspects inputs of high entropy",
        (f"{TESTS}/test_strip.py",),
    ),
    Fault(
        "strip-calibrates-on-overlays",
        STRIP,
        "infer(victim, clean.x_NCHW[order[half:]], confidence",
        "infer(victim, clean.x_NCHW[order[:half]], confidence",
        "STRIP takes its threshold from its overlays",
        (f"{HELD}[strip]",),
    ),
    Fault(
        "strip-quantile",
        STRIP,
        "torch.quantile(combined(held_MW), 1 - self.fpr)",
        "torch.quantile(combined(held_MW), self.fpr)",
        "STRIP flags all but its share of clean inputs",
        (f"{TESTS}/test_strip.py",),
    ),
    Fault(
        "strip-no-clipping",
        STRIP,
        "(x_BCHW + self.strength * overlay_CHW).clamp_(0, 255)",
        "(x_BCHW + self.strength * overlay_CHW)",
        "STRIP does not clip what it superimposes",
        (f"{TESTS}/test_strip.py",),
    ),
    Fault(
        "strip-lighter-is-darker",
        STRIP,
        "return torch.maximum(x_BCHW, self.strength * overlay_CHW)",
        "return torch.minimum(x_BCHW, self.strength * overlay_CHW)",
        "the lighter of two values is the darker one",
        (f"{TESTS}/test_strip.py",),
    ),
    Fault(
        "strip-encoder-sign",
        STRIP_ENCODER,
        "return (sum_BD.square().sum(1) - squares_B) / (count * (count - 1))",
        "return (squares_B - sum_BD.square().sum(1)) / (count * (count - 1))",
        "strip_encoder suspects inputs whose embedding moves",
        (f"{TESTS}/test_strip.py",),
    ),
    Fault(
        "strip-encoder-calibrates-on-overlays",
        STRIP_ENCODER,
        "infer(victim, clean.x_NCHW[order[half:]], similarity)",
        "infer(victim, clean.x_NCHW[order[:half]], similarity)",
        "strip_encoder takes its threshold from its overlays",
        (f"{HELD}[strip_encoder]",),
    ),
    Fault(
        "strip-encoder-threshold",
        STRIP_ENCODER,
        "thresholds.conformal(held_M, self.fpr)",
        "thresholds.conformal(held_M, 1 - self.fpr)",
        "strip_encoder flags all but its share of clean inputs",
        (in_cells("strip_encoder-0.1"),),
    ),
    Fault(
        "beatrix-only-below",
        STATISTICS,
        "total_B += ((gram_BE - high_BE).relu()",
        "total_B -= ((gram_BE - high_BE).relu()",
        "Beatrix trusts products above their range",
        (f"{TESTS}/test_beatrix.py",),
    ),
    Fault(
        "beatrix-narrow",
        STATISTICS,
        "high_GPE=median_GPE + reach * spread_GPE",
        "high_GPE=median_GPE - reach * spread_GPE",
        "Beatrix's range ends below its middle",
        (f"{TESTS}/test_beatrix.py",),
    ),
    Fault(
        "beatrix-threshold-from-statistics",
        BEATRIX,
        "held_M = infer(victim, held_MCHW, deviation, batch_size=IMAGES_AT_ONCE)",
        "held_M = infer(victim, x_MCHW, deviation, batch_size=IMAGES_AT_ONCE)",
        "Beatrix takes its threshold from the images that gave the ranges",
        (f"{HELD}[beatrix]",),
    ),
    Fault(
        "beatrix-fpr",
        BEATRIX,
        "thresholds.conformal(held_M, self.fpr)",
        "thresholds.conformal(held_M, 1 - self.fpr)",
        "Beatrix flags all but its share of clean inputs",
        (f"{TESTS}/test_beatrix.py",),
    ),
    Fault(
        "beatrix-other-group",
        STATISTICS,
        "row_B = self.row_G[group_B.clamp_max(len(self.row_G) - 1)]",
        "row_B = self.row_G[(group_B + 1).clamp_max(len(self.row_G) - 1)]",
        "Beatrix compares an image with another class",
        (f"{TESTS}/test_beatrix.py",),
    ),
    Fault(
        "dede-seen-patches-count",
        DECODER,
        ".sum(2) * hidden(seen_BK, wanted_BTP.shape[1])",
        ".sum(2) * (1 - hidden(seen_BK, wanted_BTP.shape[1]))",
        "DeDe counts the errors of the patches that it sees",
        (
            f"{TESTS}/test_dede.py::test_the_score_is_zero_for_the_image_itself_adds_up_and_leaves_out_what_is_seen",
        ),
    ),
    Fault(
        "dede-threshold-from-pool",
        DEDE,
        "return thresholds.conformal(held_M, self.alpha)",
        "return thresholds.conformal(score_N, self.alpha)",
        "DeDe takes its threshold from the pool",
        (f"{TESTS}/test_dede.py::test_thresholds_come_from_held_out_scores",),
    ),
    Fault(
        "dede-trains-on-held-images",
        DEDE,
        "self.painter(victim, clean.select(order[held_out:]), rng, held)",
        "self.painter(victim, clean, rng, held)",
        "DeDe trains on the images that give its threshold",
        (f"{HELD}[dede]",),
    ),
    Fault(
        "dede-negated",
        DEDE,
        "        score_N = maps_NT.sum(1)\n",
        "        score_N = -maps_NT.sum(1)\n",
        "DeDe's score is negated",
        (f"{TESTS}/test_dede.py::test_the_errors_that_are_compared_are_those_of_the_score",),
    ),
    Fault(
        "dede-own-embedding-of-another",
        PAINTER,
        "own_N = self.maps(x_NCHW, z_ND).sum(1)",
        "own_N = self.maps(x_NCHW, z_ND.roll(1, 0)).sum(1)",
        "DeDe's own error is that with the embedding of another image",
        (f"{TESTS}/test_dede.py::test_the_errors_that_are_compared_are_those_of_the_score",),
    ),
    Fault(
        "dede-thins-the-lonely",
        "raybd/detectors/dede/thinning.py",
        "crowd_N.argsort(stable=True)[:kept]",
        "crowd_N.argsort(stable=True, descending=True)[:kept]",
        "DeDe leaves out the images that are least crowded",
        (f"{TESTS}/test_dede.py::test_thinning_leaves_out_the_most_crowded_images",),
    ),
)
