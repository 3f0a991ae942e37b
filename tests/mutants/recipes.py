"""Faults in recipes: schedules, softened labels, mixed images, averaged weights, augmentation."""

from tests.mutants.fault import Fault

RECIPE = "raybd/training/recipe.py"
CLASSIFIER = "raybd/training/classifier_recipe.py"
AVERAGE = "raybd/training/moving_average.py"
PLATEAU = "raybd/training/plateau.py"
AUGMENTATION = "raybd/training/augmentation.py"
OF_RECIPES = ("tests/training/test_recipe.py",)
OF_CLASSIFIERS = ("tests/training/test_classifier_recipe.py",)
OF_PLATEAUS = ("tests/training/test_plateau.py",)
OF_AUGMENTATION = ("tests/training/test_augmentation.py",)

FAULTS = (
    Fault(
        "nesterov-always",
        RECIPE,
        "nesterov=recipe.nesterov and recipe.momentum > 0,",
        "nesterov=recipe.momentum > 0,",
        "plain momentum cannot be had",
        OF_RECIPES,
    ),
    Fault(
        "weights-do-not-decay",
        RECIPE,
        "decaying = [p for p in parameters if p.ndim > 1]",
        "decaying = [p for p in parameters if p.ndim > 2]",
        "the weights of linear layers are in no group",
        OF_RECIPES,
    ),
    Fault(
        "linear-ignores-warmup",
        RECIPE,
        "return max(0.0, (1 - progress) / (1 - recipe.warmup))",
        "return max(0.0, 1 - progress)",
        "the highest learning rate is never reached",
        OF_RECIPES,
    ),
    Fault(
        "own-bounds-overwritten",
        RECIPE,
        'taken = {"padding", "rotation", "cutout"} - self.model_fields_set',
        'taken = {"padding", "rotation", "cutout"}',
        "the entry of a defense is not what is run",
        OF_RECIPES,
    ),
    Fault(
        "key-with-new-field",
        CLASSIFIER,
        "ema: float = Field(0.0, ge=0, lt=1, exclude_if=lambda it: it == 0)",
        "ema: float = Field(0.0, ge=0, lt=1)",
        "victims of older stores are trained again",
        (*OF_CLASSIFIERS, "tests/stages/test_keys.py"),
    ),
    Fault(
        "mixed-labels-swapped",
        CLASSIFIER,
        "return share * first_B + (1 - share) * self._of(logits_BK, other.y_B)",
        "return (1 - share) * first_B + share * self._of(logits_BK, other.y_B)",
        "a mixed image has mostly the label of the other one",
        OF_CLASSIFIERS,
    ),
    Fault(
        "mixed-with-itself",
        CLASSIFIER,
        "other_BCHW = other.augmented(other.x_B)",
        "other_BCHW = x_BCHW",
        "labels are mixed and images are not",
        OF_CLASSIFIERS,
    ),
    Fault(
        "attack-leaves-fields-out",
        CLASSIFIER,
        'return ", ".join(chosen) or None',
        "return None",
        "an attack that controls training ignores fields without a word",
        OF_CLASSIFIERS,
    ),
    Fault(
        "average-without-short-memory",
        AVERAGE,
        "decay = min(self.decay, (1 + self.steps) / (10 + self.steps))",
        "decay = self.decay",
        "a short training hands out its first weights",
        OF_CLASSIFIERS,
    ),
    Fault(
        "average-not-handed-out",
        "raybd/training/loop.py",
        "        average.hand_out()\n",
        "        pass\n",
        "the victim has the weights of the last step",
        OF_CLASSIFIERS,
    ),
    Fault(
        "average-not-in-the-checkpoint",
        "raybd/training/loop.py",
        '        state["average"] = average\n',
        "",
        "a training that resumes forgets its average",
        OF_CLASSIFIERS,
    ),
    Fault(
        "plateau-too-early",
        PLATEAU,
        "if self.waited <= self.patience:",
        "if self.waited < self.patience:",
        "the learning rate falls an epoch too early",
        OF_PLATEAUS,
    ),
    Fault(
        "plateau-against-the-last-loss",
        PLATEAU,
        "            self.lowest = loss\n            self.waited = 0\n            return\n",
        "            self.lowest = loss\n            self.waited = 0\n            return\n"
        "        self.lowest = loss\n",
        "each loss is compared with the one before, not with the lowest",
        OF_PLATEAUS,
    ),
    Fault(
        "turned-the-other-way",
        AUGMENTATION,
        "sine_B = radians_B.sin()[:, None, None]",
        "sine_B = -radians_B.sin()[:, None, None]",
        "images are turned clockwise",
        OF_AUGMENTATION,
    ),
    Fault(
        "hole-off-by-one",
        AUGMENTATION,
        "return (place_S >= first_B1) & (place_S < first_B1 + side)",
        "return (place_S >= first_B1) & (place_S <= first_B1 + side)",
        "the hole is a pixel too large",
        OF_AUGMENTATION,
    ),
)
