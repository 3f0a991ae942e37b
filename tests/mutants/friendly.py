"""Faults in what a newcomer meets: tar files, strangers' checkpoints, stated power, jobs."""

from tests.mutants.fault import Fault

TARS = "raybd/reading/tars.py"
TRIAL = "raybd/ops/trial_reading.py"
TRIGGERS = "raybd/canaries/triggers.py"
VERDICT = "raybd/scanning/verdict.py"
COMBINING = "raybd/metrics/combining.py"
IN_TARS = ("tests/reading/test_tars.py",)
WEIGHTS = ("tests/ops/test_weights.py",)
PLANTED = ("tests/canaries/test_known_triggers.py",)
SAID = ("tests/scanning/test_verdict.py",)

FAULTS = (
    Fault(
        "tar-next-member",
        TARS,
        "return _Image(path, member.name, member.offset_data, member.size)",
        "return _Image(path, member.name, member.offset, member.size)",
        "an image is read from its header on",
        IN_TARS,
    ),
    Fault(
        "tar-longest-ending",
        TARS,
        'member = parts[min(endings, key=lambda ending: (ending.count("."), ending))]',
        'member = parts[max(endings, key=lambda ending: (ending.count("."), ending))]',
        "the mask of a sample is its image",
        IN_TARS,
    ),
    Fault(
        "tar-key-without-folder",
        TARS,
        'samples.setdefault(f"{folder}/{key}", {})[ending.lower()] = member',
        "samples.setdefault(key, {})[ending.lower()] = member",
        "samples of two folders are mixed up",
        IN_TARS,
    ),
    Fault(
        "tar-labels-in-order-of-samples",
        TARS,
        "names = checked_names(sorted(set(labels)), where)",
        "names = checked_names(list(dict.fromkeys(labels)), where)",
        "the numbers of classes depend on the order of the samples",
        IN_TARS,
    ),
    Fault(
        "trial-takes-longer",
        TRIAL,
        "seconds = least_seconds + size // BYTES_PER_SECOND",
        "seconds = 5 * least_seconds + size // BYTES_PER_SECOND",
        "reading may take five times as long as it may",
        WEIGHTS,
    ),
    Fault(
        "trial-without-memory-limit",
        TRIAL,
        "resource.setrlimit(resource.RLIMIT_AS, (used + more_bytes, used + more_bytes))",
        "resource.getrlimit(resource.RLIMIT_AS)",
        "reading may take all memory",
        WEIGHTS,
    ),
    Fault(
        "dead-reader-stays",
        TRIAL,
        "if _reader().poll() is not None:",
        "if False:",
        "a reader that was killed is asked again",
        WEIGHTS,
    ),
    Fault(
        "faint-is-strong",
        TRIGGERS,
        "return drawn if strength is None else low + round(strength * (high - low))",
        "return drawn if strength is None else high - round(strength * (high - low))",
        "the faintest patch is the largest",
        PLANTED,
    ),
    Fault(
        "blend-of-any-strength",
        TRIGGERS,
        "(drawn if strength is None else strength)",
        "drawn",
        "a faint pattern is as clear as a strong one",
        PLANTED,
    ),
    Fault(
        "best-power-first",
        VERDICT,
        'ones.sort(key=lambda one: (-one.rate, one.strength != "faint"))',
        'ones.sort(key=lambda one: (-one.rate, one.strength == "faint"))',
        "what is found at best is said first",
        SAID,
    ),
    Fault(
        "a-side-is-called-poison",
        VERDICT,
        "    if layout.from_suspects:\n        return Verdict(",
        "    if False:\n        return Verdict(",
        "without trusted images one half of a class is called poison",
        SAID,
    ),
    Fault(
        "one-number-of-decoys",
        COMBINING,
        "held_FN = held_F.double().reshape(len(p_FN), -1)",
        "held_FN = held_F.double().reshape(len(p_FN), -1)[:, :1]",
        "all p-values count the decoys of the first",
        ("tests/metrics/test_combining.py",),
    ),
    Fault(
        "job-without-a-store",
        "raybd/cli/submit.py",
        "if config is not None and store is None:",
        "if config is None and store is None:",
        "a job without a store is submitted",
        ("tests/cli/test_run.py", "-k", "without_a_store"),
    ),
)
