"""Faults in what is taken from others, and in what is handed to them."""

from tests.mutants.fault import Fault

IMPORTED = "raybd/trainers/imported.py"
WEIGHTS = "raybd/ops/weights.py"
RECORDED = "raybd/attacks/data/recorded.py"
RECORD = "raybd/reading/backdoorbench.py"
EXPORT = "raybd/export/victim.py"
OF_IMPORTED = ("tests/trainers/test_imported.py",)
OF_WEIGHTS = ("tests/ops/test_weights.py",)
OF_RECORDS = ("tests/cli/test_import_record.py", "tests/reading/test_backdoorbench.py")
OF_EXPORT = ("tests/export/test_victim.py",)

FAULTS = (
    Fault(
        "imported-any-file",
        IMPORTED,
        "        if found != self.sha256:\n",
        "        if found != self.sha256 and False:\n",
        "weights that were replaced since the plan are used",
        OF_IMPORTED,
    ),
    Fault(
        "imported-no-normalisation",
        IMPORTED,
        'return COMMON[self.normalisation or "none"]',
        'return COMMON["none"]',
        "the normalisation of the training is not used",
        OF_IMPORTED,
    ),
    Fault(
        "imported-gate-reversed",
        IMPORTED,
        "return gained - lost > max(",
        "return lost - gained > max(",
        "a worse normalisation speaks against the given one, and a better one does not",
        OF_IMPORTED,
    ),
    Fault(
        "imported-gate-without-least-accuracy",
        IMPORTED,
        "if own < self.least_accuracy:",
        "if own < 0:",
        "a model at chance is accepted",
        OF_IMPORTED,
    ),
    Fault(
        "imported-order-of-the-file",
        IMPORTED,
        "torch.tensor([self.classes.index(name) for name in class_names])",
        "torch.arange(num_classes)",
        "outputs keep the order of the file, whatever they stand for",
        OF_IMPORTED,
    ),
    Fault(
        "imported-checked-on-suspects",
        "raybd/stages/victim.py",
        ".check(victim, dataset.clean)",
        ".check(victim, split)",
        "the normalisation is checked on poisoned images",
        OF_IMPORTED,
    ),
    Fault(
        "imported-trained-again",
        "raybd/stages/removal.py",
        "if not cast(Trainer, wanted.victim.method.config).trains:",
        "if False:",
        "a model that nothing here trained counts as trained again",
        OF_IMPORTED,
    ),
    Fault(
        "imported-under-other-shapes",
        "raybd/training/adoption.py",
        "if name in found and found[name].shape != own[mine].shape",
        "if False",
        "weights of other shapes are no error of the user",
        OF_IMPORTED,
    ),
    Fault(
        "weights-that-run-code",
        WEIGHTS,
        'map_location="cpu", weights_only=True',
        'map_location="cpu", weights_only=False',
        "a checkpoint may run code",
        OF_WEIGHTS,
    ),
    Fault(
        "weights-of-any-size",
        WEIGHTS,
        "    if total > COPIES * size:\n",
        "    if total > COPIES * size and False:\n",
        "a few bytes may state terabytes",
        OF_WEIGHTS,
    ),
    Fault(
        "weights-compressed",
        WEIGHTS,
        "    if stated > size:\n",
        "    if stated > size and False:\n",
        "an archive may be larger than its file",
        OF_WEIGHTS,
    ),
    Fault(
        "record-flags-as-they-are",
        RECORDED,
        "poisoned.role_M.copy_(images.train_role_M[there_M])",
        "pass",
        "noise images of WaNet count as poison",
        OF_RECORDS,
    ),
    Fault(
        "record-target-is-cross",
        RECORD,
        "role_M[kept_M & (changed.given_M != target)] = CROSS",
        "role_M[kept_M] = CROSS",
        "poisoned images of the target class count as no poison",
        OF_RECORDS,
    ),
    Fault(
        "record-clean-label-is-cross",
        RECORD,
        "    if kept_M.all():\n",
        "    if kept_M.all() and False:\n",
        "the poison of clean-label attacks counts as none",
        OF_RECORDS,
    ),
    Fault(
        "record-in-any-order",
        RECORD,
        "        if wrong:\n",
        "        if wrong and False:\n",
        "poison is laid over other images than it was made of",
        OF_RECORDS,
    ),
    Fault(
        "record-labels-swapped",
        RECORD,
        "files, labels_M2[:, 0], labels_M2[:, 1])",
        "files, labels_M2[:, 1], labels_M2[:, 0])",
        "given and true labels are mistaken for each other",
        OF_RECORDS,
    ),
    Fault(
        "export-numbers-of-the-undefended",
        EXPORT,
        'start = "" if self.stage == "victim" else "defended_"',
        'start = ""',
        "the card of a defended victim tells the numbers of the undefended one",
        OF_EXPORT,
    ),
    Fault(
        "export-own-names",
        EXPORT,
        "name if found.plain is None else found.plain.name(name): tensor",
        "name: tensor",
        "weights have names that no library knows",
        OF_EXPORT,
    ),
    Fault(
        "network-head-unnamed",
        "raybd/types/models.py",
        'return f"{self.head}.{rest}"',
        'return f"head.{rest}"',
        "the classifier has another name than in its library",
        ("tests/networks/test_families.py",),
    ),
)
