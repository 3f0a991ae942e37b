"""Faults in scanners of classifiers other than Neural Cleanse, and in what shows their finds."""

from tests.mutants.fault import Fault

MM_BD = "raybd/scanners/mm_bd.py"
FREE_EAGLE = "raybd/scanners/free_eagle.py"
MM_BD_TESTS = ("tests/scanners/test_mm_bd.py",)
FREE_EAGLE_TESTS = ("tests/scanners/test_free_eagle.py",)

FAULTS = (
    Fault(
        "mm-bd-descends",
        MM_BD,
        "free_OSCHW.detach() + self.lr * gradient",
        "free_OSCHW.detach() - self.lr * gradient",
        "MM-BD looks for the smallest margins",
        MM_BD_TESTS,
    ),
    Fault(
        "mm-bd-largest-in-its-own-law",
        MM_BD,
        "others = others[others > 0]",
        "others = margin_K[margin_K > 0]",
        "the largest margin is judged under a law that was fitted to it",
        MM_BD_TESTS,
    ),
    Fault(
        "mm-bd-one-class-alone",
        MM_BD,
        "return -math.expm1((len(others) + 1) * math.log1p(-above))",
        "return -math.expm1(math.log1p(-above))",
        "the largest of K margins is judged as if there were one",
        MM_BD_TESTS,
    ),
    Fault(
        "mm-bd-own-logit-counts-as-other",
        MM_BD,
        "logits_NK.scatter(1, class_N1, -torch.inf).amax(1)",
        "logits_NK.amax(1)",
        "a margin is never above zero",
        MM_BD_TESTS,
    ),
    Fault(
        "mm-bd-threshold",
        MM_BD,
        "torch.tensor([1 - self.level]),",
        "torch.tensor([self.level]),",
        "MM-BD flags nearly every model",
        MM_BD_TESTS,
    ),
    Fault(
        "free-eagle-own-class-counts",
        FREE_EAGLE,
        "return leaning_KK.fill_diagonal_(0)",
        "return leaning_KK",
        "the leaning of an output to its own class counts",
        FREE_EAGLE_TESTS,
    ),
    Fault(
        "free-eagle-leans-from",
        FREE_EAGLE,
        "leaning_K = similarity_KK.mean(0)",
        "leaning_K = similarity_KK.mean(1)",
        "FreeEagle looks for the class that leans to others, not the one they lean to",
        FREE_EAGLE_TESTS,
    ),
    Fault(
        "free-eagle-lower-quartile",
        FREE_EAGLE,
        "return (leaning_K - upper) /",
        "return (leaning_K - lower) /",
        "the distance is counted from the lower quartile",
        FREE_EAGLE_TESTS,
    ),
    Fault(
        "free-eagle-last-stage",
        FREE_EAGLE,
        "return found[-2]",
        "return found[-1]",
        "FreeEagle looks at the last stage",
        FREE_EAGLE_TESTS,
    ),
    Fault(
        "free-eagle-negative-outputs",
        FREE_EAGLE,
        "free_KD.clamp_(min=0)",
        "free_KD.clamp_(min=-1e9)",
        "outputs are sought that no ReLU can put out",
        FREE_EAGLE_TESTS,
    ),
)
