"""Faults in the detectors that first ask which class stands out: SCAn, AGPD, SPECTRE, FLARE."""

from tests.mutants.fault import Fault

ANOMALY = "raybd/detectors/_anomaly.py"
SCAN = "raybd/detectors/scan_em.py"
ABL = "raybd/detectors/abl_isolation.py"
AGPD = "raybd/detectors/agpd/__init__.py"
DIRECTIONS = "raybd/detectors/agpd/directions.py"
FILTER = "raybd/detectors/agpd/filter.py"
SPECTRE = "raybd/detectors/spectre/__init__.py"
ENTROPY = "raybd/detectors/spectre/entropy.py"
ROBUST = "raybd/detectors/spectre/robust.py"
DISTILLATION = "raybd/detectors/cognitive_distillation.py"
FLARE = "raybd/detectors/flare.py"
DENSITY = "raybd/detectors/_density.py"
TESTS = "tests/detectors"

FAULTS = (
    Fault(
        "scan-em-suspects-the-trusted-group",
        SCAN,
        "upper_is_poison = inside < outside",
        "upper_is_poison = inside > outside",
        "SCAn suspects the group that holds more trusted images",
        (f"{TESTS}/test_scan_em.py",),
    ),
    Fault(
        "scan-em-variation-for-identity",
        SCAN,
        "self.identity_D / (len(y_ND) * self.identity_D + 1)",
        "self.identity_D / (self.identity_D + 1) / len(y_ND)",
        "SCAn does not trust the mean of many images more",
        (f"{TESTS}/test_scan_em.py",),
    ),
    Fault(
        "scan-em-mean-of-one-group-as-it-is",
        SCAN,
        "one = (y_AD - found.posterior(y_AD))",
        "one = (y_AD - y_AD.mean(0))",
        "SCAn compares two posterior means with one plain mean",
        (f"{TESTS}/test_scan_em.py",),
    ),
    Fault(
        "scan-em-flags-unasked",
        SCAN,
        "flagged_K = (index_K > self.threshold) & avoided_K",
        "flagged_K = index_K > self.threshold",
        "SCAn flags classes whose trusted images fall into both groups",
        (f"{TESTS}/test_scan_em.py",),
    ),
    Fault(
        "anomaly-on-both-sides",
        ANOMALY,
        "return middle_K / (NORMAL * deviation)",
        "return middle_K.abs() / (NORMAL * deviation)",
        "a class that is more compact than others stands out",
        (f"{TESTS}/test_anomaly.py",),
    ),
    Fault(
        "abl-isolation-in-another-order",
        ABL,
        "score_N[canonical_N.argsort()]",
        "score_N[canonical_N]",
        "ABL's scores are not those of their images",
        (f"{TESTS}/test_abl_isolation.py",),
    ),
    Fault(
        "abl-isolation-trains-the-victim-on",
        ABL,
        "first = fresh_copy(victim, rng)",
        "first = fresh_copy(victim, rng) and victim",
        "ABL's isolation starts from the victim",
        (f"{TESTS}/test_abl_isolation.py",),
    ),
    Fault(
        "abl-isolation-flags-the-rest",
        ABL,
        "thresholds.top_share(score_N, self.share)",
        "thresholds.top_share(score_N, 1 - self.share)",
        "ABL's isolation flags all but the assumed share",
        (f"{TESTS}/test_abl_isolation.py",),
    ),
    Fault(
        "agpd-sum-over-positions-of-one-side",
        DIRECTIONS,
        "part.mean((2, 3))",
        "part[..., 0].mean(2)",
        "AGPD reads the gradient at the left border alone",
        (f"{TESTS}/test_agpd.py",),
    ),
    Fault(
        "agpd-closest-is-least",
        AGPD,
        "to_farthest_M = cosine(g_MD, g_MD[to_trusted_M.argmin()])",
        "to_farthest_M = cosine(g_MD, g_MD[to_trusted_M.argmax()])",
        "AGPD compares a class with its most usual image",
        (f"{TESTS}/test_agpd.py",),
    ),
    Fault(
        "agpd-farthest-join-first",
        FILTER,
        "r_M = towards(to_trusted_N[outside_N], to_inside_M)",
        "r_M = towards(to_inside_M, to_trusted_N[outside_N])",
        "AGPD's suspects are joined by the images that are least like them",
        (f"{TESTS}/test_agpd.py",),
    ),
    Fault(
        "agpd-window-of-most-unrest",
        FILTER,
        "int(unrest_W.argmin())",
        "int(unrest_W.argmax())",
        "AGPD's filter ends where it changes most",
        (f"{TESTS}/test_agpd.py",),
    ),
    Fault(
        "agpd-never-ends",
        FILTER,
        "if larger.held_share > stop.alpha:",
        "if larger.held_share > 1:",
        "AGPD's filter goes on until trusted images have joined",
        (f"{TESTS}/test_agpd.py",),
    ),
    Fault(
        "spectre-exponential-of-entries",
        ENTROPY,
        "weight_DD: Tensor = (vectors_DD * weight_D) @ vectors_DD.T",
        "weight_DD: Tensor = second_DD.exp() / second_DD.exp().trace()",
        "SPECTRE takes the exponential of each entry",
        (f"{TESTS}/test_spectre.py",),
    ),
    Fault(
        "spectre-centered-on-the-suspects",
        SPECTRE,
        "y_MD = (z_ND[y_N == label] - center_of[label]) @ white_DD",
        "y_MD = (z_ND[y_N == label] - z_ND[y_N == label].mean(0)) @ white_DD",
        "SPECTRE measures from the mean of clean images and poison",
        (f"{TESTS}/test_spectre.py",),
    ),
    Fault(
        "spectre-flags-every-class",
        SPECTRE,
        "one.threshold if place == target else one.score_M.max()",
        "one.threshold",
        "SPECTRE flags images of every class",
        (f"{TESTS}/test_spectre.py",),
    ),
    Fault(
        "spectre-leaves-out-without-end",
        ROBUST,
        "left -= len(order_R)",
        "left -= 0",
        "SPECTRE's covariance may leave out any number of images",
        (f"{TESTS}/test_spectre.py",),
    ),
    Fault(
        "distillation-suspects-large-masks",
        DISTILLATION,
        "return -self.masks(victim, x_BCHW, colors_SC)",
        "return self.masks(victim, x_BCHW, colors_SC)",
        "cognitive distillation suspects images that need all their pixels",
        (f"{TESTS}/test_cognitive_distillation.py",),
    ),
    Fault(
        "distillation-past-the-preprocessing",
        DISTILLATION,
        "changed_B = (output(shown_BCHW)",
        "changed_B = (output(shown_BCHW / 255)",
        "cognitive distillation shows the victim other pixels than it knows",
        (f"{TESTS}/test_cognitive_distillation.py",),
    ),
    Fault(
        "distillation-adam-uncorrected",
        DISTILLATION,
        "first_BHW / (1 - self.betas[0] ** step)",
        "first_BHW",
        "the first steps of cognitive distillation are too short",
        (f"{TESTS}/test_cognitive_distillation.py",),
    ),
    Fault(
        "flare-likeliest-channel",
        FLARE,
        "flatten(1).amin(1)",
        "flatten(1).amax(1)",
        "FLARE reads the most usual channel",
        (f"{TESTS}/test_flare.py",),
    ),
    Fault(
        "flare-flags-the-cluster",
        FLARE,
        "np.log(cut / density_N)",
        "np.log(density_N / cut)",
        "FLARE suspects the largest cluster",
        (f"{TESTS}/test_flare.py",),
    ),
    Fault(
        "flare-follows-the-smaller-branch",
        DENSITY,
        "key=size.__getitem__, reverse=True)",
        "key=size.__getitem__)",
        "FLARE takes the smallest branch for clean",
        (f"{TESTS}/test_flare.py",),
    ),
)
