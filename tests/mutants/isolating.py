"""Faults in ABL, NAB, DBD, D-ST and D-BR, and in what they share."""

from tests.mutants.fault import Fault

SHORTCUT = "raybd/training/shortcut.py"
ISOLATION = "raybd/training/isolation.py"
ABL = "raybd/training_defenses/abl.py"
NAB = "raybd/training_defenses/nab.py"
DBD = "raybd/training_defenses/dbd.py"
DST = "raybd/training_defenses/dst.py"
SENSITIVITY = "raybd/training/sensitivity.py"
CONTRAST = "raybd/training/contrast.py"
DEFENDED = "raybd/stages/defended.py"
DBR = "raybd/repairs/dbr.py"
TESTS = "tests/training_defenses"

FAULTS = (
    Fault(
        "abl-isolates-the-highest",
        ISOLATION,
        "rows_M = loss_N.argsort(stable=True)",
        "rows_M = (-loss_N).argsort(stable=True)",
        "ABL isolates the images that are learned last",
        (f"{TESTS}/test_abl.py",),
    ),
    Fault(
        "abl-verdict-negated",
        ISOLATION,
        "Suspicion((-loss_N).float()",
        "Suspicion(loss_N.float()",
        "ABL suspects what it does not know",
        (f"{TESTS}/test_abl.py",),
    ),
    Fault(
        "abl-trains-on-isolated",
        ABL,
        "rest_N[isolated.rows_M] = False",
        "rest_N[isolated.rows_M] = True",
        "ABL trains on what it has isolated",
        (f"{TESTS}/test_abl.py",),
    ),
    Fault(
        "abl-descends",
        ABL,
        "return -F.cross_entropy(model(x_BCHW).float()",
        "return F.cross_entropy(model(x_BCHW).float()",
        "ABL learns the isolated images instead of unlearning them",
        (f"{TESTS}/test_abl.py",),
    ),
    Fault(
        "abl-keeps-a-costly-epoch",
        ABL,
        "            self.victim.load_state_dict(self.kept)\n",
        "",
        "ABL's ascent may cost any accuracy",
        (f"{TESTS}/test_abl.py",),
    ),
    Fault(
        "abl-ascends-further",
        ABL,
        "self.ended = self.known() <= self.chance",
        "self.ended = False",
        "ABL ascends after the isolated images are unlearned",
        (f"{TESTS}/test_abl.py",),
    ),
    Fault(
        "bounded-by-own-images",
        SHORTCUT,
        "group.gather_rows(held_B, batch).mean()",
        "held_B.mean()",
        "each worker turns round at the mean of its own images",
        ("tests/training/test_shortcut.py",),
    ),
    Fault(
        "nab-stamps-in-training-alone",
        NAB,
        "stamp.worn_B = None\n\n        rest_N",
        "stamp.worn_B = torch.zeros(1, dtype=torch.bool)\n\n        rest_N",
        "NAB's victim stamps no input in use",
        (f"{TESTS}/test_nab.py",),
    ),
    Fault(
        "nab-stamps-all-isolated",
        NAB,
        "return new_y_N, new_y_N != y_N",
        "return new_y_N, torch.isin(torch.arange(len(y_N)), rows_M)",
        "NAB stamps images that keep their label",
        (f"{TESTS}/test_nab.py",),
    ),
    Fault(
        "nab-means-of-the-lowest",
        NAB,
        "sure_N[loss_N.argsort(stable=True)",
        "sure_N[(-loss_N).argsort(stable=True)",
        "NAB's class means hold the images with the lowest losses",
        (f"{TESTS}/test_nab.py",),
    ),
    Fault(
        "nab-loads-without-its-stamp",
        NAB,
        "        victim.entry = _Stamp(self.side)\n\n    def defend_from",
        "        pass\n\n    def defend_from",
        "a stored victim of NAB has no stamp",
        ("tests/contracts/test_training_defenses.py",),
    ),
    Fault(
        "dbd-reverse-of-the-label",
        DBD,
        "other_B = 1 - logits_BK.softmax(1).gather(1, y_B[:, None])[:, 0]",
        "other_B = logits_BK.softmax(1).gather(1, y_B[:, None])[:, 0]",
        "DBD's reverse cross-entropy rewards wrong labels",
        (f"{TESTS}/test_dbd.py",),
    ),
    Fault(
        "dbd-believes-the-highest",
        DBD,
        "order = loss_N[rows].argsort(stable=True)",
        "order = (-loss_N[rows]).argsort(stable=True)",
        "DBD keeps the labels that are least credible",
        (f"{TESTS}/test_dbd.py",),
    ),
    Fault(
        "dbd-guesses-are-blurred",
        DBD,
        "p_BK ** (1 / temperature)",
        "p_BK**temperature",
        "DBD's guesses become less sure",
        (f"{TESTS}/test_dbd.py",),
    ),
    Fault(
        "dbd-mixes-images-alone",
        DBD,
        "target_mixed = mixed * target_BK[mine] + (1 - mixed) * target_BK[with_B[mine]]",
        "target_mixed = target_BK[mine]",
        "DBD mixes images, and not their labels",
        (f"{TESTS}/test_dbd.py",),
    ),
    Fault(
        "dst-learns-the-poison",
        DST,
        "torch.full((poison,), -unlearning * both / poison)",
        "torch.full((poison,), unlearning * both / poison)",
        "D-ST's head descends on the poisoned part",
        (f"{TESTS}/test_dst.py",),
    ),
    Fault(
        "contrast-trusts-all-labels",
        CONTRAST,
        "same_BB & trusted_B[:, None] & trusted_B",
        "same_BB & trusted_B[:, None]",
        "an image whose label is not trusted is a positive of others",
        ("tests/training/test_contrast.py",),
    ),
    Fault(
        "sensitivity-swaps-the-parts",
        SENSITIVITY,
        "return Sensitive(change_N, order_N[:clean], order_N[-poison:])",
        "return Sensitive(change_N, order_N[-clean:], order_N[:poison])",
        "the most sensitive images are taken for clean",
        ("tests/training/test_sensitivity.py",),
    ),
    Fault(
        "sensitivity-draws-classes-together",
        SENSITIVITY,
        "masked_fill(itself_KK, 0).mean()",
        "masked_fill(itself_KK, 0).mean().neg()",
        "the classes are drawn together",
        ("tests/training/test_sensitivity.py",),
    ),
    Fault(
        "sensitivity-shifts-the-other-way",
        SENSITIVITY,
        "sin_B * height / width, -2 * shift_B2[:, 0]",
        "sin_B * height / width, 2 * shift_B2[:, 0]",
        "images are shifted to the other side",
        ("tests/training/test_sensitivity.py",),
    ),
    Fault(
        "dbr-learns-the-poison",
        DBR,
        "passes = [(-1.0, poison_P), *passes]",
        "passes = [(1.0, poison_P), *passes]",
        "D-BR descends on the poisoned part",
        ("tests/repairs/test_dbr.py",),
    ),
    Fault(
        "dbr-never-stops",
        DBR,
        "if distance(victim, poison) <= self.furthest:",
        "if True:",
        "D-BR unlearns without end",
        ("tests/repairs/test_dbr.py",),
    ),
    Fault(
        "encoder-without-the-canaries",
        DEFENDED,
        "Encoder(method=trainer, poison=overlay, **common)",
        "Encoder(method=trainer, poison=overlay.poison_stage, **common)",
        "the encoder of a defense learns from another training set than its victim",
        ("tests/stages/test_defended_from_an_encoder.py",),
    ),
)
