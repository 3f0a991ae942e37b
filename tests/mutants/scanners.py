"""Faults in scanners of classifiers other than Neural Cleanse, and in what shows their finds."""

from tests.mutants.fault import Fault

MM_BD = "raybd/scanners/mm_bd.py"
FREE_EAGLE = "raybd/scanners/free_eagle.py"
K_ARM = "raybd/scanners/k_arm.py"
DBF = "raybd/scanners/bti_dbf/__init__.py"
DBF_GOAL = "raybd/scanners/bti_dbf/goal.py"
OVERLAP = "raybd/metrics/overlap.py"
SCAN = "raybd/stages/scan.py"
K_ARM_TESTS = ("tests/scanners/test_k_arm.py",)
DBF_TESTS = ("tests/scanners/test_bti_dbf.py",)
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
    Fault(
        "k-arm-slowest-first",
        K_ARM,
        "best = among[reward_A == reward_A.max()]",
        "best = among[reward_A == reward_A.min()]",
        "the next round goes to the class that promises least",
        K_ARM_TESTS,
    ),
    Fault(
        "k-arm-bonus-for-large-masks",
        K_ARM,
        "speed_K + self._fields.bonus / norm_K",
        "speed_K + self._fields.bonus * norm_K",
        "large masks get a bonus",
        K_ARM_TESTS,
    ),
    Fault(
        "k-arm-never-explores",
        K_ARM,
        "if explores:",
        "if not explores:",
        "explores when it should prefer",
        K_ARM_TESTS,
    ),
    Fault(
        "k-arm-one-first-choice",
        K_ARM,
        "first = max(2, round(top * num_classes))",
        "first = max(1, round(top * num_classes) - 1)",
        "one first choice too few is looked at",
        K_ARM_TESTS,
    ),
    Fault(
        "k-arm-searches-class-0",
        "raybd/scanners/neural_cleanse/search.py",
        "wanted_N = self._class_K[class_G].repeat_interleave(len(x_BCHW))",
        "wanted_N = class_G.repeat_interleave(len(x_BCHW))",
        "every arm looks for triggers of class 0",
        K_ARM_TESTS,
    ),
    Fault(
        "dbf-complement-keeps",
        DBF_GOAL,
        "return F.cross_entropy(masked_BK, y_B) - others_B",
        "return F.cross_entropy(masked_BK, y_B) + others_B",
        "the features outside of the mask keep what is said, too",
        DBF_TESTS,
    ),
    Fault(
        "dbf-moves-benign-features",
        DBF_GOAL,
        "return fields.benign_weight * changes.benign - changes.others",
        "return fields.benign_weight * changes.others - changes.benign",
        "the generator moves the benign features",
        DBF_TESTS,
    ),
    Fault(
        "dbf-without-bounds",
        DBF_GOAL,
        "changes.pixels > fields.pixel_bound or changes.benign",
        "changes.pixels > fields.pixel_bound and changes.benign",
        "a trigger may pass one of its bounds",
        DBF_TESTS,
    ),
    Fault(
        "dbf-share-alone",
        DBF,
        "index_K[commonest][None],",
        "(index_K + shares_K)[commonest][None],",
        "a class that is common anyhow is suspicious",
        DBF_TESTS,
    ),
    Fault(
        "dbf-largest-growth",
        DBF,
        "commonest = int((index_K + shares_K).argmax())",
        "commonest = int(index_K.argmin())",
        "another class than the commonest is judged",
        DBF_TESTS,
    ),
    Fault(
        "iou-intersection-over-found",
        OVERLAP,
        "union = (found_HW | touched_HW).sum()",
        "union = found_HW.sum()",
        "what was not recovered does not count",
        ("tests/metrics/test_overlap.py",),
    ),
    Fault(
        "iou-of-least-suspicious",
        SCAN,
        'mask[verdict.tensors["index"].argmax()]',
        'mask[verdict.tensors["index"].argmin()]',
        "the overlap is that of a class that nobody suspects",
        ("tests/stages/test_scan.py",),
    ),
)
