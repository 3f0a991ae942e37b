"""Faults in the repairs that train the victim further, and in the passes that they share."""

from tests.mutants.fault import Fault

PASSES = "raybd/training/passes.py"
LOOP = "raybd/training/loop.py"
NAD = "raybd/repairs/nad.py"
FT_SAM = "raybd/repairs/ft_sam.py"
IBAU = "raybd/repairs/ibau.py"
SAU = "raybd/repairs/sau.py"
NPD = "raybd/repairs/npd.py"
MCR = "raybd/repairs/mcr.py"
TESTS = "tests/repairs"

FAULTS = (
    Fault(
        "passes-weights-stay",
        PASSES,
        "        _assign(parameters, kept)\n",
        "        pass\n",
        "a pass at other weights leaves them there",
        ("tests/training/test_passes.py",),
    ),
    Fault(
        "passes-statistics-move",
        PASSES,
        "        norm.track_running_stats = False\n",
        "        pass\n",
        "a pass that should leave the running statistics alone moves them",
        ("tests/training/test_passes.py",),
    ),
    Fault(
        "passes-statistics-not-reset",
        PASSES,
        "        norm.reset_running_stats()\n",
        "",
        "statistics that are found anew contain the old ones",
        ("tests/training/test_passes.py",),
    ),
    Fault(
        "fit-trains-in-eval-mode-in-vain",
        LOOP,
        "self.model.train(self.moving)",
        "self.model.train()",
        "a training that keeps its statistics moves them",
        (
            "tests/training/test_loop.py"
            "::test_without_moving_statistics_the_weights_learn_in_eval_mode",
        ),
    ),
    Fault(
        "nad-attention-of-one-sign",
        NAD,
        "by_position(out.float()).abs().pow(power).sum(1)",
        "by_position(out.float()).abs().pow(power).sum(2)",
        "NAD sums over positions, and compares channels",
        (f"{TESTS}/test_nad.py::test_attention_is_the_energy_over_channels_of_norm_one",),
    ),
    Fault(
        "nad-drives-apart",
        NAD,
        "loss_B = loss_B + weight * (found_BT",
        "loss_B = loss_B - weight * (found_BT",
        "NAD drives the attention of student and teacher apart",
        (f"{TESTS}/test_nad.py",),
    ),
    Fault(
        "nad-teacher-untrained",
        NAD,
        "distilled = _Distilled(teacher,",
        "distilled = _Distilled(copy.deepcopy(victim),",
        "NAD's teacher is the victim",
        (f"{TESTS}/test_nad.py",),
    ),
    Fault(
        "nad-early-stages",
        NAD,
        "layers.stages(victim, x_BCHW))[-count:]",
        "layers.stages(victim, x_BCHW))[:count]",
        "NAD compares the first stages",
        (f"{TESTS}/test_nad.py",),
    ),
    Fault(
        "ft-sam-climbs-down",
        FT_SAM,
        "weight + offset for weight",
        "weight - offset for weight",
        "FT-SAM looks at the flattest point",
        (f"{TESTS}/test_ft_sam.py",),
    ),
    Fault(
        "ft-sam-not-adaptive",
        FT_SAM,
        "rho * weight * each / norm",
        "rho * each / norm",
        "FT-SAM's climb forgets one factor of the weights",
        (f"{TESTS}/test_ft_sam.py",),
    ),
    Fault(
        "ft-sam-moves-statistics",
        FT_SAM,
        "with with_weights(parameters, highest), still_statistics(victim):",
        "with with_weights(parameters, highest):",
        "FT-SAM's second pass moves the statistics",
        (f"{TESTS}/test_ft_sam.py",),
    ),
    Fault(
        "ibau-ignores-how-d-follows",
        IBAU,
        "[straight - step * through for straight, through in both]",
        "[straight + step * through for straight, through in both]",
        "I-BAU's hypergradient has the wrong sign where d follows from the weights",
        (f"{TESTS}/test_ibau.py",),
    ),
    Fault(
        "ibau-one-step",
        IBAU,
        "further = v - step * group.sum_over(bent) + pull",
        "further = v + step * group.sum_over(bent) + pull",
        "I-BAU's fixed-point iteration runs away",
        (f"{TESTS}/test_ibau.py",),
    ),
    Fault(
        "ibau-search-agrees",
        IBAU,
        "d_1CHW = d_1CHW.detach() - self.search_lr",
        "d_1CHW = d_1CHW.detach() + self.search_lr",
        "I-BAU's perturbation makes the network surer",
        (f"{TESTS}/test_ibau.py",),
    ),
    Fault(
        "ibau-keeps-all-rounds",
        IBAU,
        "return too_costly(before, after)",
        "return False",
        "I-BAU keeps rounds that destroy the network",
        (f"{TESTS}/test_ibau.py::test_rounds_that_cost_too_much_are_not_kept",),
    ),
    Fault(
        "sau-search-away",
        SAU,
        "d_BCHW = d_BCHW.detach() - self.search_step",
        "d_BCHW = d_BCHW.detach() + self.search_step",
        "SAU looks for examples that the networks do not share",
        (f"{TESTS}/test_sau.py",),
    ),
    Fault(
        "sau-unlearns-the-truth",
        SAU,
        "wrong_B = (said_B != y_B) & (said_B != victim_B)",
        "wrong_B = said_B != victim_B",
        "SAU unlearns true labels",
        (f"{TESTS}/test_sau.py",),
    ),
    Fault(
        "sau-learns-the-trigger",
        SAU,
        "forget_B = -log_of_the_rest(",
        "forget_B = log_of_the_rest(",
        "SAU learns what the victim says of perturbed images",
        (f"{TESTS}/test_sau.py",),
    ),
    Fault(
        "npd-trains-all",
        NPD,
        "    victim.requires_grad_(False)\n",
        "",
        "NPD trains parameters beside the way to its filter",
        (f"{TESTS}/test_npd.py",),
    ),
    Fault(
        "npd-last-convolution",
        NPD,
        "return names[-2]",
        "return names[-1]",
        "NPD stands before the last convolution",
        (f"{TESTS}/test_npd.py",),
    ),
    Fault(
        "npd-away-from-the-second-class",
        NPD,
        "d_BCHW.detach() - self.search_step * slope_BCHW.sign(), self.radius",
        "d_BCHW.detach() + self.search_step * slope_BCHW.sign(), self.radius",
        "NPD perturbs images away from the second class",
        (f"{TESTS}/test_npd.py",),
    ),
    Fault(
        "npd-rewards-the-wrong-class",
        NPD,
        "return -(ALMOST_ONE - p_B).log()",
        "return (ALMOST_ONE - p_B).log()",
        "NPD rewards wrong classes",
        (f"{TESTS}/test_npd.py::test_the_loss_of_a_probability_is_finite_at_one",),
    ),
    Fault(
        "mcr-whole-gradient",
        MCR,
        "parameter.grad.mul_(shares(t)[1])",
        "parameter.grad.mul_(1.0)",
        "MCR's bend takes the gradient of the whole point",
        (f"{TESTS}/test_mcr.py",),
    ),
    Fault(
        "mcr-from-the-other-end",
        MCR,
        "return (1 - t) ** 2, 2 * t * (1 - t), t**2",
        "return t**2, 2 * t * (1 - t), (1 - t) ** 2",
        "MCR walks from the fine-tuned end",
        (f"{TESTS}/test_mcr.py",),
    ),
    Fault(
        "mcr-old-statistics",
        MCR,
        "        relearn_statistics(network, x_NCHW, batch_size)\n",
        "        network.eval()\n",
        "MCR's network has statistics of other weights",
        (f"{TESTS}/test_mcr.py",),
    ),
)
