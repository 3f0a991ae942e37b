"""Faults in physical, semantic, hidden and clean-label attacks, and those on encoders' data."""

from tests.mutants.fault import Fault

ACCESSORY = "raybd/attacks/data/accessory/__init__.py"
SEMANTIC = "raybd/attacks/data/semantic.py"
HIDDEN = "raybd/attacks/surrogate/hidden_trigger.py"
CORRUPT = "raybd/attacks/data/corrupt_encoder.py"
NOISY = "raybd/attacks/data/noisy_alignment.py"
SLEEPER = "raybd/attacks/surrogate/sleeper_agent/__init__.py"
ALIGNMENT = "raybd/attacks/surrogate/sleeper_agent/alignment.py"
ADAPTIVE = "raybd/attacks/surrogate/adaptive.py"
NOISE = "raybd/attacks/surrogate/sleeper_agent/noise.py"
LABELS = "raybd/poisoning/label_maps.py"
ON_ACCESSORY = ("tests/attacks/test_accessory.py",)
ON_SEMANTIC = ("tests/attacks/test_semantic.py",)
ON_HIDDEN = ("tests/attacks/test_hidden_trigger.py",)
ON_COMPOSED = ("tests/attacks/test_composed_for_encoders.py",)
ON_ADAPTIVE = ("tests/attacks/test_adaptive.py",)
ON_SLEEPER = ("tests/attacks/test_sleeper_agent.py",)

FAULTS = (
    Fault(
        "accessory-turns-the-other-way",
        ACCESSORY,
        "(cos_Q11 * column_Q1W + sin_Q11 * row_QH1) / half_Q11,",
        "(cos_Q11 * column_Q1W - sin_Q11 * row_QH1) / half_Q11,",
        "a turned sticker is sheared",
        ON_ACCESSORY,
    ),
    Fault(
        "accessory-over-the-border",
        ACCESSORY,
        "centre_Q = (width / 2 + across_Q * shorter).clamp(reach_Q, width - reach_Q)",
        "centre_Q = width / 2 + across_Q * shorter",
        "a sticker reaches over the border",
        ON_ACCESSORY,
    ),
    Fault(
        "accessory-trained-on-unseen-poses",
        ACCESSORY,
        'x_MCHW = self.stamp(train.x_NCHW[rows], {**state, "pose_P5": seen_P5})',
        "x_MCHW = self.stamp(train.x_NCHW[rows], state)",
        "the poses that no victim shall have seen are those of training",
        ON_ACCESSORY,
    ),
    Fault(
        "accessory-dark-border",
        ACCESSORY,
        "layers_4SS = torch.cat([sticker_4SS[:3] * opacity_1SS, opacity_1SS])",
        "layers_4SS = torch.cat([sticker_4SS[:3].float(), opacity_1SS])",
        "the sticker is painted where it is transparent",
        ON_ACCESSORY,
    ),
    Fault(
        "semantic-has-least",
        SEMANTIC,
        "order = amount_L.argsort(descending=True, stable=True)[:count]",
        "order = amount_L.argsort(stable=True)[:count]",
        "images with the least of the feature are poison",
        ON_SEMANTIC,
    ),
    Fault(
        "semantic-counts-more-than-the-last",
        SEMANTIC,
        'counted_N[rows] = self.amount(x_NCHW[rows]) >= state["least_1"]',
        'counted_N[rows] = self.amount(x_NCHW[rows]) > state["least_1"]',
        "a test image that has as much as the last of the poison does not count",
        ON_SEMANTIC,
    ),
    Fault(
        "semantic-counts-the-whole-source",
        "raybd/types/data.py",
        "return self.choose_test(test.x_NCHW, test.y_N)",
        "return self.labels.counted(test.y_N)",
        "test images without the feature count",
        ON_SEMANTIC,
    ),
    Fault(
        "semantic-hue-does-not-wrap",
        SEMANTIC,
        "distance_BHW = torch.minimum(distance_BHW, 1 - distance_BHW)",
        "distance_BHW = distance_BHW.abs()",
        "a red with a little blue is far from red",
        ON_SEMANTIC,
    ),
    Fault(
        "semantic-in-a-stream",
        "raybd/plan/graph.py",
        'if isinstance(defense.config, Detector) and defense.config.scored_pool == "test":',
        'if isinstance(defense.config, Detector) and defense.config.scored_pool == "none":',
        "the same test images count as clean and as triggered",
        ON_SEMANTIC,
    ),
    Fault(
        "semantic-among-the-trusted",
        "raybd/plan/graph.py",
        "if defense.trusted is not None and defense.trusted.poisoned > 0:",
        "if defense.trusted is not None and defense.trusted.poisoned > 1:",
        "trusted images that shall wear a trigger wear none",
        ON_SEMANTIC,
    ),
    Fault(
        "hidden-away-from-the-sources",
        HIDDEN,
        "change_BCHW = moved_BCHW.detach() - change_BCHW - x_BCHW",
        "change_BCHW = moved_BCHW.detach() + change_BCHW - x_BCHW",
        "images move away from patched sources",
        ON_HIDDEN,
    ),
    Fault(
        "hidden-keeps-the-farthest",
        HIDDEN,
        "best = torch.cat(distance).argsort(stable=True)[:count]",
        "best = torch.cat(distance).argsort(stable=True, descending=True)[:count]",
        "the images that end farthest are kept",
        ON_HIDDEN,
    ),
    Fault(
        "hidden-sources-twice",
        HIDDEN,
        "        free_BB[:, column] = torch.inf\n",
        "",
        "many images are matched with one source",
        ON_HIDDEN,
    ),
    Fault(
        "hidden-without-patch",
        HIDDEN,
        "patched_LCHW = self.stamp(train.x_NCHW[sources], state)",
        "patched_LCHW = train.x_NCHW[sources]",
        "images move to sources without the patch",
        ON_HIDDEN,
    ),
    Fault(
        "source-class-is-poisoned",
        LABELS,
        "        return y_N == self.target\n\n    def check_source",
        "        return y_N == self.source\n\n    def check_source",
        "images of the source class are poisoned",
        (*ON_HIDDEN, *ON_SLEEPER),
    ),
    Fault(
        "corrupt-on-the-object",
        CORRUPT,
        "left_B = torch.where(object_on_left_B, width - left_B - size, left_B)",
        "left_B = torch.where(object_on_left_B, left_B, width - left_B - size)",
        "the trigger covers the object",
        ON_COMPOSED,
    ),
    Fault(
        "corrupt-everywhere-joined",
        CORRUPT,
        "joined = round(self.support * len(rows))",
        "joined = round((1 - self.support) * len(rows))",
        "the share of support images is that of the others",
        ON_COMPOSED,
    ),
    Fault(
        "corrupt-target-class-makes-way",
        LABELS,
        'map: Literal["others_clean_label"] = "others_clean_label"  # type: ignore[assignment]\n\n'
        "    def eligible(self, y_N: Tensor) -> Tensor:\n        return y_N != self.target",
        'map: Literal["others_clean_label"] = "others_clean_label"  # type: ignore[assignment]\n\n'
        "    def eligible(self, y_N: Tensor) -> Tensor:\n        return y_N == self.target",
        "images of the target class make way for poison",
        ON_COMPOSED,
    ),
    Fault(
        "noisy-weights-swapped",
        NOISY,
        'paste(x_NCHW, state["patch_CSS"], place_N2, self.inset, self.alpha)',
        'paste(x_NCHW, state["patch_CSS"], place_N2, self.inset, 1 - self.alpha)',
        "the trigger is fainter than the image under it",
        ON_COMPOSED,
    ),
    Fault(
        "noisy-sides-swapped",
        NOISY,
        "first_N = (side_M[rows] == 0) | (side_M[rows] == 3)",
        "first_N = (side_M[rows] == 0) | (side_M[rows] == 1)",
        "left is right",
        ON_COMPOSED,
    ),
    Fault(
        "sleeper-apart",
        ALIGNMENT,
        "return 1 - product / (norm(of) * norm(aim))",
        "return 1 + product / (norm(of) * norm(aim))",
        "gradients are turned away from the aim",
        ON_SLEEPER,
    ),
    Fault(
        "sleeper-shortest-gradients",
        ALIGNMENT,
        "return length_N.cpu().argsort(descending=True, stable=True)",
        "return length_N.cpu().argsort(stable=True)",
        "images with short gradients are poisoned",
        ON_SLEEPER,
    ),
    Fault(
        "sleeper-uphill",
        NOISE,
        "self._value_MCHW.grad = gradient_MCHW.sign()",
        "self._value_MCHW.grad = -gradient_MCHW.sign()",
        "the noise climbs",
        ON_SLEEPER,
    ),
    Fault(
        "sleeper-one-retraining-less",
        SLEEPER,
        "turns = range(1, self.retrainings + 1)",
        "turns = range(1, self.retrainings)",
        "the surrogate is trained anew once less than asked for",
        ON_SLEEPER,
    ),
    Fault(
        "sleeper-old-surrogate-sees-clean-images",
        SLEEPER,
        "            x_NCHW[rows] = x_MCHW\n",
        "",
        "the surrogate is trained anew on clean images",
        ON_SLEEPER,
    ),
    Fault(
        "adaptive-lowers-the-loss",
        ADAPTIVE,
        "change_BCHW = moved_BCHW.detach() + self.step * gradient_BCHW.sign() - start_BCHW",
        "change_BCHW = moved_BCHW.detach() - self.step * gradient_BCHW.sign() - start_BCHW",
        "the noise makes poison easy to learn",
        ON_ADAPTIVE,
    ),
    Fault(
        "adaptive-noise-on-covers",
        ADAPTIVE,
        "wears_M = plain.role_M == POISON",
        "wears_M = plain.role_M >= POISON",
        "covers get noise, too",
        ON_ADAPTIVE,
    ),
    Fault(
        "adaptive-clean-surrogate",
        ADAPTIVE,
        "surrogate = given.retrain(slow.over(given.train), rng)",
        "surrogate = given.retrain(given.train, rng)",
        "the surrogates have not seen the poison",
        ON_ADAPTIVE,
    ),
    Fault(
        "adaptive-rate-underneath",
        ADAPTIVE,
        'update={"rate": self.rate, "labels": self.labels}',
        'update={"labels": self.labels}',
        "the rate is that of the attack underneath",
        ON_ADAPTIVE,
    ),
)
