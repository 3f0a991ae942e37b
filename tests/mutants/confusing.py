"""Faults in confusion training."""

from tests.mutants.fault import Fault

METHOD = "raybd/detectors/confusion_training/__init__.py"
CONFUSING = "raybd/detectors/confusion_training/confusing.py"
CLASS_TEST = "raybd/detectors/confusion_training/class_test.py"
TESTS = ("tests/detectors/test_confusion_training.py",)

FAULTS = (
    Fault(
        "confusion-of-the-right-labels",
        CONFUSING,
        "(y_B + 1 + step % (num_classes - 1)) % num_classes",
        "(y_B + step % num_classes) % num_classes",
        "some wrong labels are the predictions themselves",
        TESTS,
    ),
    Fault(
        "confusion-weighs-frequent-classes",
        CONFUSING,
        "(share_K + NO_DIVISION_BY_ZERO).rsqrt()",
        "(share_K + NO_DIVISION_BY_ZERO).sqrt()",
        "frequent classes weigh more than rare ones",
        TESTS,
    ),
    Fault(
        "confusion-of-equal-weights",
        CONFUSING,
        "loss = ((turn.weight - 1) * loss + known) / turn.weight",
        "loss = loss + known",
        "the wrong labels count no more than those of the suspects",
        TESTS,
    ),
    Fault(
        "confusion-keeps-the-worst",
        METHOD,
        "order_N = loss_N.argsort(stable=True)",
        "order_N = loss_N.argsort(descending=True, stable=True)",
        "the next round learns what was forgotten first",
        TESTS,
    ),
    Fault(
        "confusion-flags-every-class",
        METHOD,
        "torch.where(is_found_K[suspects.y_N], others_NK.amax(1), NOTHING)",
        "others_NK.amax(1)",
        "kept labels are flagged in classes that the test does not find, too",
        TESTS,
    ),
    Fault(
        "confusion-ratio-of-the-whole-class",
        CLASS_TEST,
        "((two - _log_likelihood(plane_M2)) / len(plane_M2)).exp()",
        "((_log_likelihood(plane_M2) - two) / len(plane_M2)).exp()",
        "one Gaussian over two",
        TESTS,
    ),
)
