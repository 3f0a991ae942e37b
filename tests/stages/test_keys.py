"""Keys of stages stay as they are, so that old stores are used: computed by raybd 0.1.0.

Those of input_aware are of its version 3, those of fine_tune, cbd and strip of their version 2:
they compute other numbers.
"""

from collections.abc import Iterator

import torch

from raybd.canaries.canaries import Canaries
from raybd.cells.wanted import Wanted
from raybd.plan.experiment import last_stage
from raybd.plan.graph import (
    Opened,
    Pretraining,
    Training,
    no_attack,
    victim_stage,
    with_trainer,
)
from raybd.registry import Method, Role, method_class
from raybd.stages import kinds

KEYS = {
    "plain/badnets/victim": "7b0b0de1515d501eb0ff",
    "plain/badnets/spectral": "2261a4699723f13eb3e0",
    "plain/badnets/spectral/stability": "71319bcabc434b00275b",
    "plain/badnets/dede": "434371efc79d16af50b0",
    "plain/badnets/decree": "0e7afe771ed33eb7eaba",
    "plain/badnets/fine_tune": "9f87f8e95e79ba21b02b",
    "plain/badnets/cbd": "5e6d474ae04a4a3d18d1",
    "plain/badnets/cbd/stability": "06d21c3212e143abf642",
    "plain/badnets/none": "7b0b0de1515d501eb0ff",
    "plain/label_consistent/victim": "cd843d543782aa63025a",
    "plain/label_consistent/spectral": "c5e7e491ff66828d29ef",
    "plain/label_consistent/dede": "cd73c0b15b9dcad1f601",
    "plain/label_consistent/decree": "d09189c4ea8c51894e50",
    "plain/label_consistent/fine_tune": "b959642874d5a940704c",
    "plain/label_consistent/cbd": "245f563c9e11cfa5a9d3",
    "plain/label_consistent/none": "cd843d543782aa63025a",
    "plain/input_aware/victim": "7fed6c1a29b09742732d",
    "plain/input_aware/spectral": "27c6cc8a719e30dc1a7b",
    "plain/input_aware/dede": "bfae266fe1cb32e087d0",
    "plain/input_aware/decree": "86bc0f1f3c0124440ce0",
    "plain/input_aware/fine_tune": "8afc61530f128d700014",
    "plain/input_aware/cbd": "cfa98cc9bdce60b1b344",
    "plain/input_aware/none": "7fed6c1a29b09742732d",
    "probe/badnets/victim": "5f41092e26a4d0a5f76d",
    "probe/badnets/spectral": "ed1104494f506ed1b2ce",
    "probe/badnets/strip": "f3902ddb6e098bc68251",
    "probe/badnets/strip/control": "fb3c8e2273edb8d05ddc",
    "probe/badnets/dede": "6b8250262b323967d3e6",
    "probe/badnets/dede/control": "98d9374baf1047b30f3b",
    "probe/badnets/decree": "ec38c03e0e92f12c3f96",
    "probe/badnets/decree/control": "be8add59d09531c2d886",
    "probe/badnets/fine_tune": "0e64e86fe24e93fdcb13",
    "probe/badnets/none": "5f41092e26a4d0a5f76d",
    "probe/badnets/none/control": "f397a309669c662cd4f8",
    "probe/badencoder/victim": "8e9b0b9803d4b7bab5b1",
    "probe/badencoder/spectral": "fb7051345d117d93b6d5",
    "probe/badencoder/strip": "bc159c11be104f5c4d79",
    "probe/badencoder/strip/control": "6c32f7226b058064b87e",
    "probe/badencoder/dede": "dfdc6ad8674adb14d790",
    "probe/badencoder/dede/control": "9ec66337908e77c5eb38",
    "probe/badencoder/decree": "65793c96e4fc7b228f79",
    "probe/badencoder/decree/control": "be8add59d09531c2d886",
    "probe/badencoder/fine_tune": "85a7cd1a317401faaa03",
    "probe/badencoder/none": "8e9b0b9803d4b7bab5b1",
    "probe/badencoder/none/control": "9e4328f3433bec99030f",
    "transfer/badnets/victim": "237594b0150f45ede791",
    "transfer/badnets/spectral": "0868e2d281bea9ed0964",
    "transfer/badnets/dede": "eda8276f95837a189709",
    "transfer/badnets/decree": "b866cb3c098a43fed0f5",
    "transfer/badnets/fine_tune": "e47cf7c78432be707709",
    "transfer/badnets/cbd": "85198d38dd064a828f49",
    "transfer/badnets/none": "237594b0150f45ede791",
    "transfer/label_consistent/victim": "93881b39fa2f3eb80530",
    "transfer/label_consistent/spectral": "90b34e233ed829c97b24",
    "transfer/label_consistent/dede": "367869740793b5efb8ad",
    "transfer/label_consistent/decree": "52107e1af1fd783ef0b7",
    "transfer/label_consistent/fine_tune": "3ffb33b3f09066bc8b25",
    "transfer/label_consistent/cbd": "117741e8d259b2a228f2",
    "transfer/label_consistent/none": "93881b39fa2f3eb80530",
}
"""Key of the last stage of a path, or of its control, by training, attack and defense."""


def method(role: Role, kind: str, name: str | None = None) -> Method:
    return Method(role, kind, method_class(role, kind)(), name or kind)


def opened(dataset: Method) -> Opened:
    return Opened(f"data-of-{dataset.name}", torch.zeros(4), 10, 100)


DIGITS = method("datasets", "digits")
NETWORK = method("networks", "small_cnn")
PLAIN = Training(method("trainers", "supervised"), NETWORK)
PROBE = Training(
    method("trainers", "linear_probe"),
    NETWORK,
    Pretraining(None, None, Training(method("trainers", "simclr"), NETWORK)),
)
TRANSFER = Training(
    method("trainers", "transfer"),
    NETWORK,
    Pretraining(method("datasets", "digits", "other"), method("attacks", "blended"), PLAIN),
)
DEFENSES = (
    method("detectors", "spectral"),
    method("detectors", "strip"),
    method("detectors", "dede"),
    method("scanners", "decree"),
    method("repairs", "fine_tune"),
    method("training_defenses", "cbd"),
    None,
)
ONCE = Method("attacks", "canaries", Canaries(), "canaries")
REPEATED = Method("attacks", "canaries", Canaries(runs=3), "canaries")


def victims() -> Iterator[tuple[str, str, Training, bool]]:
    """Training and attack of each victim, and whether canaries are planted."""
    yield "plain", "badnets", PLAIN, True
    yield "plain", "label_consistent", PLAIN, False
    yield "plain", "input_aware", PLAIN, False
    yield "probe", "badnets", PROBE, False
    yield "probe", "badencoder", PROBE, False
    yield "transfer", "badnets", TRANSFER, False
    yield "transfer", "label_consistent", TRANSFER, False


def test_the_keys_of_all_kinds_of_stages_are_those_of_older_stores() -> None:
    found: dict[str, str] = {}
    for training_name, attack, training, planted in victims():
        canaries = ONCE if planted else None
        victim = victim_stage(opened, DIGITS, method("attacks", attack), training, 3, canaries)
        twin = victim_stage(opened, DIGITS, no_attack(), training, 3)
        found[f"{training_name}/{attack}/victim"] = victim.key

        for defense in DEFENSES:
            name = f"{training_name}/{attack}/{defense.kind if defense else 'none'}"
            followed = with_trainer(training.trainer, defense)
            wanted = Wanted(victim, twin, followed, True, REPEATED if planted else None)
            last = last_stage(wanted)
            # Older stores have no purification of classifiers, which stands on the score.
            found[name] = (
                last if training is PROBE or last.name != "purification" else last.suspicion
            ).key
            for kind in kinds():
                control = kind.control_for_cell(wanted)
                if control is not None:
                    found[f"{name}/control"] = control.key
                for extra in kind.after_cell(wanted, last):
                    found[f"{name}/stability"] = extra.key
    assert {name: found[name] for name in KEYS} == KEYS
