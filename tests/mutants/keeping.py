"""Faults in what is kept of victims, and in the tools that read it."""

from tests.mutants.fault import Fault

ANSWERS = "raybd/cells/answers.py"
QUALITY = "raybd/cells/victim_quality.py"
WATCHING = "raybd/cells/watching.py"
GROUPS = "raybd/cells/watched_groups.py"
GRADIENTS = "raybd/metrics/head_gradients.py"
RUNTIME = "raybd/training/runtime.py"
FORGETTING = "raybd/analyses/forgetting.py"
GENERALISATION = "raybd/analyses/generalisation.py"
CHANGES = "raybd/analyses/_trigger_changes.py"
ANALYSING = "raybd/plan/analysing.py"
IN_ANSWERS = ("tests/cells/test_predictions.py", "-k", "by_hand")
IN_CELLS = ("tests/cells/test_predictions.py", "-k", "name_the_test_image or numbers_of_its_cell")
WATCHED = ("tests/cells/test_watching.py", "-k", "by_hand or gap or own_images or anew or modes")
RESUMED = ("tests/cells/test_watching.py", "-k", "crash")
BY_GRADIENT = ("tests/metrics/test_head_gradients.py",)
FORGOT = ("tests/analyses/test_forgetting.py", "-k", "not experiment")
MOVED = ("tests/analyses/test_generalisation.py", "-k", "not backdoor")
PLANNED = ("tests/plan/test_analysing.py",)

FAULTS = (
    Fault(
        "refused-has-a-label",
        ANSWERS,
        'column(predicted_N, pa.uint32()),\n        "p_pred"',
        'column(predicted_N, pa.uint32(), hidden=False),\n        "p_pred"',
        "a refused input has an answer",
        IN_ANSWERS,
    ),
    Fault(
        "probability-of-another-label",
        ANSWERS,
        '"p_true": probability(y_N)',
        '"p_true": probability(predicted_N)',
        "the true label has the probability of the given one",
        IN_ANSWERS,
    ),
    Fault(
        "triggered-rows-are-counted",
        QUALITY,
        "index_M = counted_N.nonzero().flatten()",
        "index_M = torch.arange(len(counted))",
        "images with the trigger have the numbers of other images",
        IN_CELLS,
    ),
    Fault(
        "tables-of-another-victim",
        "raybd/results/victim_tables.py",
        "!= victim.encode()",
        "== b''",
        "the file of another victim is read",
        ("tests/results/test_victim_tables.py",),
    ),
    Fault(
        "poison-by-its-true-label",
        GROUPS,
        "split.x_NCHW[rows], split.y_N[rows], true",
        "split.x_NCHW[rows], true_N[rows], true",
        "the loss of poison is that of its true label",
        WATCHED,
    ),
    Fault(
        "triggered-by-their-true-label",
        GROUPS,
        'Group("test_triggered", worn_NCHW, wanted_N, counted.y_N, True, None)',
        'Group("test_triggered", worn_NCHW, counted.y_N, counted.y_N, True, None)',
        "attack success is robust accuracy",
        WATCHED,
    ),
    Fault(
        "gap-the-other-way",
        WATCHING,
        '_lower(losses["poison"], losses["clean"])',
        '_lower(losses["clean"], losses["poison"])',
        "a high loss tells poison",
        WATCHED,
    ),
    Fault(
        "margin-to-itself",
        WATCHING,
        'logits_NK.scatter(1, y_N[:, None], float("-inf")).amax(1)',
        "logits_NK.amax(1)",
        "the margin of a right answer is 0",
        WATCHED,
    ),
    Fault(
        "trajectories-are-joined",
        WATCHING,
        "if epoch.epoch == 1:",
        "if epoch.epoch == 0:",
        "the epochs of two trainings are one trajectory",
        WATCHED,
    ),
    Fault(
        "modes-are-not-put-back",
        RUNTIME,
        "        module.training = mode",
        "        pass",
        "a training goes on in eval mode after it was looked at",
        WATCHED,
    ),
    Fault(
        "seen-is-not-saved",
        "raybd/training/checkpoints.py",
        '"seen": seen(),',
        '"seen": None,',
        "a resumed training has lost the rows of its first epochs",
        RESUMED,
    ),
    Fault(
        "gradient-without-bias",
        GRADIENTS,
        "z_ND.new_ones(len(z_ND), 1)",
        "z_ND.new_zeros(len(z_ND), 1)",
        "the gradient leaves the bias out",
        BY_GRADIENT,
    ),
    Fault(
        "gradient-of-the-wanted-class-alone",
        GRADIENTS,
        "logits_NK.softmax(1) - F.one_hot",
        "logits_NK.softmax(1) + F.one_hot",
        "the residual has the wrong sign",
        BY_GRADIENT,
    ),
    Fault(
        "forgets-are-learned",
        FORGETTING,
        "correct_NE[:, :-1] & ~correct_NE[:, 1:]",
        "~correct_NE[:, :-1] & correct_NE[:, 1:]",
        "what is learned counts as forgotten",
        FORGOT,
    ),
    Fault(
        "never-learned-is-learned-first",
        FORGETTING,
        "torch.where(ever_N, first_N, correct_NE.shape[1])",
        "first_N",
        "an image that was never right was learned at once",
        FORGOT,
    ),
    Fault(
        "recovered-is-anything-else",
        FORGETTING,
        'won["after"] == won["true"]',
        'won["after"] != won["wanted"]',
        "any other label is a recovery",
        FORGOT,
    ),
    Fault(
        "lead-backwards",
        "raybd/analyses/dynamics.py",
        "t_clean - t_attack if both",
        "t_attack - t_clean if both",
        "the backdoor is behind when it is ahead",
        ("tests/analyses/test_dynamics.py", "-k", "lead"),
    ),
    Fault(
        "confusion-turned",
        "raybd/analyses/confusion.py",
        'for name in ("true", "wanted", "pred")}',
        'for name in ("pred", "wanted", "true")}',
        "rows are the given labels",
        ("tests/analyses/test_confusion.py", "-k", "by_hand"),
    ),
    Fault(
        "shift-the-other-way",
        CHANGES,
        "to_rows = slice(max(down, 0), height + min(down, 0))",
        "to_rows = slice(max(-down, 0), height + min(-down, 0))",
        "the trigger does not move up or down",
        MOVED,
    ),
    Fault(
        "crop-keeps-the-far-ones",
        CHANGES,
        'masked_fill(~touched_MHW, float("inf"))\n',
        'neg().masked_fill(~touched_MHW, float("inf"))\n',
        "the positions farthest from the middle are kept",
        MOVED,
    ),
    Fault(
        "turned-clockwise",
        CHANGES,
        "turn = torch.tensor(degrees).deg2rad()",
        "turn = -torch.tensor(degrees).deg2rad()",
        "the trigger turns the other way",
        MOVED,
    ),
    Fault(
        "success-is-robust",
        GENERALISATION,
        '"success": share(found_M == pairs.wanted_M)',
        '"success": share(found_M == pairs.y_M)',
        "the true label counts as success",
        ("tests/analyses/test_generalisation.py", "-k", "backdoor"),
    ),
    Fault(
        "half-from-above",
        GENERALISATION,
        "for amount, success in curve if success >= HALF",
        "for amount, success in reversed(curve) if success >= HALF",
        "the largest amount is the one from which on half is won",
        ("tests/analyses/test_generalisation.py", "-k", "backdoor"),
    ),
    Fault(
        "missing-victims-are-run-over",
        ANALYSING,
        "        if here[one.key]:\n            continue",
        "        if True:\n            continue",
        "a tool is started on a victim that is not there",
        PLANNED,
    ),
    Fault(
        "conditions-are-not-asked",
        ANALYSING,
        "cells = cells[cells[column].astype(str) == value]",
        "cells = cells[cells[column].notna()]",
        "all cells are looked at, whatever was chosen",
        PLANNED,
    ),
    Fault(
        "turned-ends-keep-their-places",
        "raybd/report/analyses/radar.py",
        "for end in (one.high, one.low))",
        "for end in (one.low, one.high))",
        "the interval of 1 minus a share is upside down",
        ("tests/report/analyses/test_radar.py",),
    ),
)
