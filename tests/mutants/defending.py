"""Faults in training defenses, repairs, scanners, and in what they share."""

from tests.mutants.fault import Fault

CBD = "raybd/training_defenses/cbd/__init__.py"
FIRST = "raybd/training_defenses/cbd/first_network.py"
GUARD = "raybd/training_defenses/_guard.py"
SHORTCUT = "raybd/training/shortcut.py"
SECOND = "raybd/training_defenses/cbd/second_network.py"
DEPENDENCY = "raybd/training_defenses/cbd/dependency.py"
CLP = "raybd/repairs/clp.py"
FINE_TUNE = "raybd/repairs/fine_tune.py"
SHRINK_PAD = "raybd/repairs/shrink_pad.py"
DECREE = "raybd/scanners/decree.py"
TESTS = "tests/training_defenses"
CBD_IN_CELLS = f"{TESTS}/test_in_cells.py"
REPAIRS_IN_CELLS = "tests/repairs/test_in_cells.py"
DECREE_IN_CELLS = "tests/scanners/test_in_cells.py"

FAULTS = (
    Fault(
        "cbd-weights-swapped",
        FIRST,
        "return first_loss_B / (first_loss_B + loss_B + TINY)",
        "return loss_B / (first_loss_B + loss_B + TINY)",
        "CBD gives most weight to what the first network knows",
        (f"{TESTS}/test_second_network.py",),
    ),
    Fault(
        "cbd-scale-inverted",
        FIRST,
        "return loss_N * (first_loss_N.median() / loss_N.median().clamp_min(TINY))",
        "return loss_N * (loss_N.median() / first_loss_N.median().clamp_min(TINY))",
        "CBD compares the losses on scales that are further apart",
        (f"{TESTS}/test_second_network.py",),
    ),
    Fault(
        "cbd-verdict-negated",
        CBD,
        "return (1 - weights(first_loss_N, loss_N)).float(), 1 / (1 + math.exp(bound))",
        "return weights(first_loss_N, loss_N).float(), 1 / (1 + math.exp(bound))",
        "CBD suspects what the first network does not know",
        (f"{TESTS}/test_cbd.py::test_the_verdict_suspects_what_the_first_network_knows",),
    ),
    Fault(
        "cbd-threshold-inverted",
        CBD,
        "1 / (1 + math.exp(bound))",
        "1 / (1 + math.exp(-bound))",
        "CBD's threshold lies on the other side",
        (f"{TESTS}/test_cbd.py::test_the_verdict_suspects_what_the_first_network_knows",),
    ),
    Fault(
        "cbd-guard-large-modes",
        GUARD,
        "small = mode.two and self.smallest_mode <= mode.share <= self.largest_mode",
        "small = mode.two",
        "CBD's guard accepts a low mode of any size",
        (f"{TESTS}/test_cbd.py::test_the_guard_wants_a_small_low_mode_of_one_label",),
    ),
    Fault(
        "cbd-guard-high-losses",
        GUARD,
        "if small and mode.mean <= self.near_zero and label_share > self.label_share:",
        "if small and label_share > self.label_share:",
        "CBD's guard accepts low modes that are not low",
        (f"{TESTS}/test_cbd.py::test_the_guard_wants_a_small_low_mode_of_one_label",),
    ),
    Fault(
        "cbd-high-mode",
        SHORTCUT,
        "low = int(two.means_[:, 0].argmin())",
        "low = int(two.means_[:, 0].argmax())",
        "CBD takes the high mode for the low one",
        ("tests/training/test_shortcut.py",),
    ),
    Fault(
        "cbd-weights-of-a-batch-unscaled",
        SECOND,
        "group.shard(weight_B * (self.batch / weight_B.sum().clamp_min(TINY)))",
        "group.shard(weight_B)",
        "CBD's weights of a batch do not have the mean one",
        (f"{TESTS}/test_second_network.py",),
    ),
    Fault(
        "cbd-dependency-raised",
        SECOND,
        "total_B = total_B + self.cbd.dependency * depend_B",
        "total_B = total_B - self.cbd.dependency * depend_B",
        "CBD's second network learns to depend on the first one",
        (f"{TESTS}/test_second_network.py",),
    ),
    Fault(
        "cbd-critic-pairs-one-image",
        DEPENDENCY,
        "apart_B1 = self._value(r_BD, z_BD.roll(1, 0), dropout)",
        "apart_B1 = self._value(r_BD, z_BD.roll(0, 0), dropout)",
        "CBD's critic compares pairs of one image with pairs of one image",
        (f"{TESTS}/test_dependency.py",),
    ),
    Fault(
        "cbd-critic-descends",
        DEPENDENCY,
        "lr, maximize=True)",
        "lr, maximize=False)",
        "CBD's critic learns to tell nothing apart",
        (f"{TESTS}/test_dependency.py",),
    ),
    Fault(
        "cbd-lga-descends",
        SHORTCUT,
        "sign_B = (held_B - bound).sign()",
        "sign_B = (bound - held_B).sign()",
        "local gradient ascent ascends above its bound",
        (f"{TESTS}/test_first_network.py",),
    ),
    Fault(
        "lost-accuracy-gained",
        "raybd/training/trusted.py",
        "before - after <= MOST_LOST",
        "after - before <= MOST_LOST",
        "a defense that destroys the network does not warn",
        ("tests/repairs/test_fine_tune.py::test_a_loss_of_more_than_ten_points_is_a_warning",),
    ),
    Fault(
        "clp-prunes-small-bounds",
        CLP,
        "outlying_C = bound_C > bound_C.mean() + self.u",
        "outlying_C = bound_C < bound_C.mean() + self.u",
        "CLP prunes all channels but the outlying ones",
        ("tests/repairs/test_clp.py",),
    ),
    Fault(
        "clp-forgets-the-variance",
        CLP,
        "/ (norm.running_var.double() + norm.eps).sqrt()",
        "* (norm.running_var.double() + norm.eps).sqrt()",
        "CLP multiplies by the deviation that it should divide by",
        ("tests/repairs/test_clp.py",),
    ),
    Fault(
        "clp-leaves-the-bias",
        CLP,
        "        norm.bias[outlying_C] = 0\n",
        "",
        "a pruned channel still puts out a constant",
        ("tests/repairs/test_clp.py",),
    ),
    Fault(
        "clp-prunes-the-victim",
        CLP,
        "pruned = copy.deepcopy(victim)",
        "pruned = victim",
        "CLP prunes the victim itself",
        ("tests/contracts/test_repairs.py::test_returns_another_victim_that_is_ready_to_use[clp]",),
    ),
    Fault(
        "fine-tune-on-suspects",
        FINE_TUNE,
        "clean.select(order[held:]),",
        "suspects,",
        "fine_tune trains on the poisoned training set",
        ("tests/repairs/test_fine_tune.py::test_lowers_attack_success",),
    ),
    Fault(
        "fine-tune-on-held-images",
        FINE_TUNE,
        "clean.select(order[held:]),",
        "clean,",
        "fine_tune measures its cost on images that it trained on",
        ("tests/repairs/test_fine_tune.py::test_the_held_images_are_not_trained_on",),
    ),
    Fault(
        "shrink-pad-other-place",
        SHRINK_PAD,
        "rows_BH = self.size - top_B[:, None]",
        "rows_BH = self.size + top_B[:, None] - top_B[:, None]",
        "ShrinkPad puts every image at the same height",
        ("tests/repairs/test_shrink_pad.py",),
    ),
    Fault(
        "shrink-pad-gray",
        SHRINK_PAD,
        "return window_BHWC.permute(0, 3, 1, 2) + black_C11",
        "return window_BHWC.permute(0, 3, 1, 2)",
        "ShrinkPad pads with gray, and darkens the image",
        ("tests/repairs/test_shrink_pad.py",),
    ),
    Fault(
        "decree-rewards-large-masks",
        DECREE,
        "torch.tensor([1 - pl1]),",
        "torch.tensor([pl1]),",
        "DECREE suspects encoders that need a large mask",
        ("tests/scanners/test_decree.py", DECREE_IN_CELLS),
    ),
    Fault(
        "decree-threshold",
        DECREE,
        "torch.tensor([1 - self.threshold]),",
        "torch.tensor([self.threshold]),",
        "DECREE flags nearly every model",
        ("tests/scanners/test_decree.py::test_a_corner_that_outshines_the_image_is_found",),
    ),
    Fault(
        "decree-drives-apart",
        DECREE,
        "loss = self.weight.value * size - cosine",
        "loss = self.weight.value * size + cosine",
        "DECREE drives embeddings apart",
        ("tests/scanners/test_decree.py",),
    ),
    Fault(
        "decree-keeps-the-largest",
        DECREE,
        "trigger.share < self.best.share",
        "trigger.share > self.best.share",
        "DECREE keeps the largest mask",
        ("tests/scanners/test_decree.py",),
    ),
    Fault(
        "decree-weight-falls",
        DECREE,
        "self.value *= self._decree.factor if self.value < self._decree.highest else 1",
        "self.value /= self._decree.factor if self.value < self._decree.highest else 1",
        "the weight of DECREE's mask falls while embeddings collapse",
        ("tests/scanners/test_decree.py",),
    ),
)
