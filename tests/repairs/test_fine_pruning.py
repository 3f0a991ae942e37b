"""Fine-pruning: the order by hand, how many units go, and that they stay away."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raybd.networks.vit_tiny import VitTiny
from raybd.repairs.fine_pruning import FinePruning, head_accuracies, idlest_first
from raybd.training.inference import infer
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from raybd.types.verdicts import Defended
from tests.small_scene import images, small_scene, stream

UNITS = 48
READ = 30
"""The unit that the head reads, in the order of their activations: 30 units are idler."""


def scene(head: nn.Module | None = None) -> tuple[Victim, Split]:
    """Units that are the pixels, the brighter the later, and a head that reads one of them."""
    y_N = torch.arange(300) % 2
    x_NP = torch.arange(UNITS).mul(4).expand(300, -1).clone()
    # Twice as much or nothing: the mean is as it was.
    x_NP[:, READ] = 2 * x_NP[:, READ] * y_N
    linear = nn.Linear(UNITS, 2)
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[1, READ] = 1.0
        linear.bias.copy_(torch.tensor([0.4, 0.0]))
    victim = Victim(nn.Flatten(), head or linear, torch.zeros(3), torch.ones(3)).eval()
    return victim, Split(x_NP.to(torch.uint8).view(-1, 3, 4, 4), y_N)


def repaired(**fields: Any) -> Defended:
    victim, clean = scene()
    quick = {"epochs": 3, "lr": 0.05, "batch_size": 40, "precision": "fp32", **fields}
    return FinePruning.model_validate(quick).repair(victim, clean, clean, stream())


def zeroed(defended: Defended) -> list[int]:
    weight_KD: Tensor = defended.victim.state_dict()["head.weight"]
    return (weight_KD == 0).all(0).nonzero().flatten().tolist()


def test_the_idlest_units_come_first_and_ties_by_their_index() -> None:
    # Means 2, 0 and 2.
    assert idlest_first(torch.tensor([[1.0, 0, 2], [3, 0, 2]])).tolist() == [1, 0, 2]
    assert idlest_first(torch.tensor([[-3.0, 1], [3, 1]])).tolist() == [1, 0], "by their size"


def test_the_head_without_units_is_that_of_embeddings_without_them() -> None:
    victim, suspects, _ = small_scene()
    z_ND = infer(victim, suspects.x_NCHW, victim.embed)
    order_D = idlest_first(z_ND)
    assert victim.head is not None
    found = head_accuracies(victim, z_ND, suspects.y_N, order_D, [0, 5, 20, 5])
    for accuracy, count in zip(found, (0, 5, 20, 5), strict=True):
        kept_ND = z_ND.clone()
        kept_ND[:, order_D[:count]] = 0
        with torch.no_grad():
            right_N = victim.head(kept_ND).argmax(1) == suspects.y_N
        assert accuracy == pytest.approx(float(right_N.float().mean()))


@pytest.mark.parametrize(("step", "count"), [(0.01, 30), (0.1, 29), (0.25, 24)])
def test_as_many_units_go_as_the_accuracy_on_held_images_allows(step: float, count: int) -> None:
    """In steps of 10 % of 48 units: 5, 10, 14, 19, 24, 29, and 34 would be too many."""
    defended = repaired(step=step, tune=False)
    assert defended.facts["pruned_channels"] == count
    assert (defended.facts["channels"], defended.facts["share"]) == (UNITS, count / UNITS)
    assert defended.facts["clean_part_accuracy_after"] == 1.0
    assert defended.warning is None
    before = scene()[0].state_dict()["head.weight"]
    after = defended.victim.state_dict()["head.weight"]
    assert (after[:, :count] == 0).all()
    assert torch.equal(after[:, count:], before[:, count:])


def test_a_share_that_was_asked_for_is_not_chosen() -> None:
    defended = repaired(share=0.75, tune=False)
    assert defended.facts["pruned_channels"] == 36
    assert defended.facts["clean_part_accuracy_after"] == 0.5
    assert defended.warning is not None
    assert defended.warning.startswith("fine_pruning: accuracy on 60 trusted images is 0.50")


def test_what_was_pruned_stays_away_while_the_rest_is_trained() -> None:
    defended = repaired(share=0.25)
    assert zeroed(defended) == list(range(12))
    assert defended.facts["clean_part_accuracy_pruned"] == 1.0
    after = defended.victim.state_dict()["head.weight"]
    assert not torch.equal(after[:, 12:], scene()[0].state_dict()["head.weight"][:, 12:])


def test_training_follows_the_pruning() -> None:
    # Without the unit that tells them apart, training finds it nowhere else.
    facts = repaired(share=0.7).facts
    assert facts["clean_part_accuracy_pruned"] == facts["clean_part_accuracy_after"] == 0.5
    assert facts["clean_part_accuracy_before"] == 1.0


def test_the_held_images_are_not_trained_on() -> None:
    """Labels without a rule can be learned by heart, and so tell what was trained on."""
    x_NCHW = images(200, side=16)
    split = Split(x_NCHW, torch.randint(0, 2, (200,), generator=stream(5)))
    head = nn.Linear(768, 2)
    nn.init.zeros_(head.weight)
    victim = Victim(nn.Flatten(), head, torch.full((3,), 0.5), torch.full((3,), 0.29)).eval()
    repair = FinePruning(share=0.01, epochs=20, lr=0.02, batch_size=40, precision="fp32")
    defended = repair.repair(victim, split, split, stream())
    right_N = infer(defended.victim, x_NCHW).argmax(1) == split.y_N
    assert float(right_N.float().mean()) > 0.85, "those that it trained on are learned"
    assert defended.facts["clean_part_accuracy_after"] < 0.75


def test_nothing_is_pruned_where_the_idlest_units_are_needed() -> None:
    victim, clean = scene()
    # What is read is 1 or nothing, and the others are brighter.
    x_NP = clean.x_NCHW.clone().view(len(clean), -1) + 2
    x_NP[:, READ] = clean.y_N.to(torch.uint8)
    x_NCHW = x_NP.view_as(clean.x_NCHW)
    with torch.no_grad():
        victim.head.weight[1, READ] = 255.0  # type: ignore[union-attr, index]
    fine_pruning = FinePruning(tune=False, step=0.1)
    warning = fine_pruning.repair(victim, clean, Split(x_NCHW, clean.y_N), stream()).warning
    assert warning is not None and warning.startswith("nothing was pruned")


def test_it_needs_no_normalisation_but_a_head_that_is_linear_in_the_embedding() -> None:
    _, suspects, clean = small_scene()
    vit = new_victim(suspects, 3, VitTiny(depth=1, width=16, heads=1), stream()).eval()
    assert FinePruning().cannot(vit.encoder, 3) is None
    pruned = FinePruning(tune=False, share=0.5).repair(vit, suspects, clean, stream())
    assert pruned.facts["pruned_channels"] == 8
    victim, split = scene(nn.Softmax(1))
    with pytest.raises(Infeasible, match="no layer of the head is linear"):
        FinePruning(tune=False, share=0.5).repair(victim, split, split, stream())
