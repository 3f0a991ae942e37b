"""Faults in attacks that control training, and in newer ones that learn their trigger."""

from tests.mutants.fault import Fault

BLIND = "raybd/attacks/training/blind.py"
GENERATED = "raybd/attacks/training/_generated.py"
MARKSMAN = "raybd/attacks/training/marksman.py"
GROND = "raybd/attacks/training/grond.py"
UBA = "raybd/attacks/surrogate/uba.py"
COMBAT = "raybd/attacks/surrogate/combat.py"
PIXELS = "raybd/poisoning/pixels.py"
TESTS = "tests/attacks"

FAULTS = (
    Fault(
        "blind-weights-swapped",
        BLIND,
        "parameter.grad = weight * first + (1 - weight) * second",
        "parameter.grad = (1 - weight) * first + weight * second",
        "blind steps along the longest mean of its gradients",
        (f"{TESTS}/test_blind.py::test_a_step_goes_down_the_shortest_mean_of_both_gradients",),
    ),
    Fault(
        "blind-mgda-sign",
        BLIND,
        "min(max(-_dot(apart, second) / distance, 0.0), 1.0)",
        "min(max(_dot(apart, second) / distance, 0.0), 1.0)",
        "blind's weight has the wrong sign",
        (f"{TESTS}/test_blind.py::test_mgda_by_hand",),
    ),
    Fault(
        "blind-begins-at-once",
        BLIND,
        "return seen >= self.needed and sum",
        "return seen >= 1 and sum",
        "blind does not wait for its history",
        (f"{TESTS}/test_blind.py::test_it_begins_after_its_history",),
    ),
    Fault(
        "blind-teaches-true-labels",
        BLIND,
        "clean_BK, y_B = worn_BK, self.labels.relabel(y_B, given.num_classes)",
        "clean_BK = worn_BK",
        "blind teaches the true label with the trigger",
        (f"{TESTS}/test_blind.py::test_a_step_goes_down_the_shortest_mean_of_both_gradients",),
    ),
    Fault(
        "blind-pattern-at-the-left",
        BLIND,
        "right = x_NCHW.shape[-1] - BESIDE * cell",
        "right = (BESIDE + columns) * cell",
        "blind's pattern lies at the other side",
        (f"{TESTS}/test_blind.py::test_the_pattern_of_the_authors_at_their_place",),
    ),
    Fault(
        "blind-in-the-training-set",
        "raybd/plan/graph.py",
        "trains or (isinstance(config, Detector)",
        "(isinstance(config, Detector)",
        "a training defense is run where no training image is poisoned",
        (f"{TESTS}/test_blind.py::test_what_looks_for_poison_in_the_training_set_is_infeasible",),
    ),
    Fault(
        "lira-alpha-swapped",
        GENERATED,
        "self.alpha * clean_B.sum() + (1 - self.alpha) * worn_B.sum()",
        "(1 - self.alpha) * clean_B.sum() + self.alpha * worn_B.sum()",
        "the weights of clean images and of those with the trigger are swapped",
        (
            f"{TESTS}/test_lira.py::"
            "test_the_loss_weighs_clean_images_and_those_with_the_trigger[0.8]",
        ),
    ),
    Fault(
        "lira-generator-climbs",
        GENERATED,
        "loop.step(missed * (group.world()",
        "loop.step(-missed * (group.world()",
        "the generator learns not to fool the victim",
        (
            f"{TESTS}/test_lira.py::"
            "test_the_generator_learns_to_fool_the_victim_and_leaves_it_alone",
        ),
    ),
    Fault(
        "lira-no-frozen-copy",
        GENERATED,
        "self._teach(loop, batch, classify, attacking, x_BCHW",
        "self._teach(loop, batch, classify, generator, x_BCHW",
        "the victim sees the generator as it moves",
        (f"{TESTS}/test_lira.py::test_the_victim_sees_the_generator_as_it_was_before_the_epoch",),
    ),
    Fault(
        "lira-copy-never-follows",
        GENERATED,
        "            attacking.load_state_dict(generator.state_dict())\n",
        "",
        "the victim sees the untrained generator in all epochs",
        (f"{TESTS}/test_lira.py::test_the_victim_sees_the_generator_as_it_was_before_the_epoch",),
    ),
    Fault(
        "rounding-stops-gradients",
        PIXELS,
        "to_pixels(x.detach()).to(x.dtype) + (x - x.detach())",
        "to_pixels(x.detach()).to(x.dtype) + (x - x.detach()).clamp(0, 0)",
        "no gradient passes where the values are clipped",
        ("tests/poisoning/test_pixels.py",),
    ),
    Fault(
        "marksman-one-trigger",
        MARKSMAN,
        "made_BCHW: Tensor = generator(x_BCHW, wanted_B)",
        "made_BCHW: Tensor = generator(x_BCHW, 0 * wanted_B)",
        "all classes have the same trigger",
        (f"{TESTS}/test_marksman.py::test_each_class_has_a_trigger_of_its_own_within_the_bound",),
    ),
    Fault(
        "turns-to-the-own-class",
        "raybd/poisoning/label_maps.py",
        "start_N = torch.where(is_target_N, own_NM.int().argmax(1) + 1, 0)",
        "start_N = torch.where(is_target_N, own_NM.int().argmax(1), 0)",
        "images are sent to their own class",
        ("tests/poisoning/test_label_maps.py",),
    ),
    Fault(
        "grond-noise-away",
        "raybd/poisoning/universal.py",
        "-inference.infer(victim, noisy_BCHW, gradient)",
        "inference.infer(victim, noisy_BCHW, gradient)",
        "the noise moves images away from the class",
        (f"{TESTS}/test_grond.py::test_the_noise_moves_images_toward_the_class",),
    ),
    Fault(
        "grond-levels-all-but-outliers",
        GROND,
        "outlying_C = bound_C > bound_C.mean() + u",
        "outlying_C = bound_C < bound_C.mean() + u",
        "all channels but the outlying ones are evened out",
        (f"{TESTS}/test_grond.py::test_an_outlying_channel_gets_the_mean_scale_and_shift_by_hand",),
    ),
    Fault(
        "grond-silences",
        GROND,
        "norm.weight[outlying_C] = norm.weight.mean()",
        "norm.weight[outlying_C] = 0",
        "outlying channels are silenced, not evened out",
        (f"{TESTS}/test_grond.py::test_an_outlying_channel_gets_the_mean_scale_and_shift_by_hand",),
    ),
    Fault(
        "grond-not-at-the-end",
        GROND,
        'name="grond", until=even_out)\n        even_out()\n',
        'name="grond", until=even_out)\n',
        "the victim that is handed out has outlying channels",
        (
            f"{TESTS}/test_grond.py::"
            "test_the_victim_that_is_handed_out_has_no_channel_that_its_scale_makes_outlying",
        ),
    ),
    Fault(
        "grond-only-at-the-end",
        GROND,
        'name="grond", until=even_out)',
        'name="grond")',
        "channels are evened out once, after the training",
        (f"{TESTS}/test_grond.py::test_channels_are_evened_out_after_every_epoch",),
    ),
    Fault(
        "rate-of-the-data-set",
        "raybd/poisoning/drawing.py",
        "count = round(rate * allowed)",
        "count = round(rate * len(y_N))",
        "a share of the class is one of the data set",
        (f"{TESTS}/test_grond.py", f"{TESTS}/test_combat.py"),
    ),
    Fault(
        "uba-other-side",
        UBA,
        "code_PB = (mean_PD @ axis_DB > 0)",
        "code_PB = (mean_PD @ axis_DB < 0)",
        "the bits of all codes are flipped",
        (f"{TESTS}/test_uba.py::test_a_code_says_on_which_side_of_the_mean_a_class_lies",),
    ),
    Fault(
        "uba-ignores-the-spread",
        UBA,
        "whiten_DD = torch.linalg.inv(root_DD)",
        "whiten_DD = torch.eye(len(root_DD)).double() + 0 * root_DD",
        "codes follow the spread of all images",
        (f"{TESTS}/test_uba.py::test_an_axis_is_as_good_as_it_tells_classes_apart",),
    ),
    Fault(
        "uba-same-codes",
        UBA,
        "if len(code_PB.unique(dim=0)) == len(present_P):",
        "if len(code_PB):",
        "two classes have the same code",
        (f"{TESTS}/test_uba.py::test_classes_with_the_same_code_get_hyperplanes",),
    ),
    Fault(
        "uba-tiles-by-column",
        UBA,
        "tile_HW = row_H[:, None] * PER_ROW + column_W",
        "tile_HW = row_H[:, None] + column_W * TILE_ROWS",
        "tiles are numbered down the columns",
        (f"{TESTS}/test_uba.py::test_tiles_by_hand",),
    ),
    Fault(
        "uba-in-the-order-of-places",
        UBA,
        "y_M[torch.randperm(len(rows), generator=rng)]",
        "y_M[torch.arange(len(rows))]",
        "the dealt class follows from the place in the training set",
        (f"{TESTS}/test_uba.py::test_every_class_gets_its_share",),
    ),
    Fault(
        "combat-highpass",
        COMBAT,
        "kept_SS: Tensor = (wave_FS.T @ wave_FS).float()",
        "kept_SS: Tensor = (torch.eye(side) - wave_FS.T @ wave_FS).float()",
        "the noise keeps the high frequencies",
        (f"{TESTS}/test_combat.py::test_low_frequencies_of_a_constant_are_that_constant",),
    ),
    Fault(
        "combat-fools-the-twin",
        COMBAT,
        "+ attack.clean_weight * kept_B",
        "- attack.clean_weight * kept_B",
        "the generator fools the clean twin",
        (
            f"{TESTS}/test_combat.py::"
            "test_the_generator_is_told_to_fool_the_surrogate_alone_by_the_formula",
        ),
    ),
    Fault(
        "combat-poisons-other-classes",
        COMBAT,
        "chosen_B = (batch.y_B == self.target) & ",
        "chosen_B = (batch.y_B != self.target) & ",
        "the surrogate learns the trigger from the other classes",
        (f"{TESTS}/test_combat.py::test_the_surrogate_learns_from_the_poisoned_class_alone",),
    ),
    Fault(
        "combat-one-frequency-more",
        COMBAT,
        "max(1, int(kept * side))",
        "max(1, int(kept * side) + 1)",
        "one frequency too many is kept",
        (f"{TESTS}/test_combat.py::test_a_wave_is_kept_up_to_the_last_kept_frequency",),
    ),
)
