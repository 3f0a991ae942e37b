"""t-SNE and UMAP: which images are shown, and whether the picture keeps neighbours."""

from typing import Any

import pandas as pd
import pytest
import torch

from raybd.analyses._sample import in_proportion
from raybd.analyses._scatter import Scatter
from raybd.analyses.tsne import Tsne
from raybd.analyses.umap import Umap
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import AnalysisInput
from tests.analyses.given import given
from tests.analyses.nets import linear_victim, some_pairs
from tests.small_scene import images, stream


def blobs(n: int = 60) -> AnalysisInput:
    """Two blobs far apart, of two classes; every tenth image of class 0 is poison or a cover."""
    y_N = torch.arange(n) % 2
    x_NCHW = torch.zeros((n, 3, 4, 4), dtype=torch.uint8)
    # Two pixels differ, by at most 20; the blobs are 200 apart.
    x_NCHW[:, 0, 0, :2] = images(n, 4)[:, 0, 0, :2] // 12
    x_NCHW[y_N == 1, 0, 0] += 200
    role_N = torch.zeros(n, dtype=torch.int8)
    role_N[::20] = 1
    role_N[10::20] = 2
    pairs = some_pairs(6)
    scene = given(linear_victim(torch.ones(2, 48)), pairs)
    return AnalysisInput(
        scene.victim, scene.clean, pairs, Split(x_NCHW, y_N), Split(x_NCHW, y_N), role_N, 2,
        scene.trigger,
    )  # fmt: skip


def shown(kind: type[Scatter], seed: int = 1, **fields: Any) -> pd.DataFrame:
    return kind.model_validate(fields).analyse(blobs(), stream(seed)).to_pandas()


@pytest.mark.parametrize(
    "kind", [Tsne, pytest.param(Umap, marks=pytest.mark.slow)], ids=["tsne", "umap"]
)
def test_two_blobs_stay_two_and_the_seed_decides_where(kind: type[Scatter]) -> None:
    table = shown(kind)
    assert table["trustworthiness"].iloc[0] >= 0.95
    own = [table[table["given"] == label][["u", "v"]] for label in (0, 1)]
    gap = float(((own[0].mean() - own[1].mean()) ** 2).sum() ** 0.5)
    assert gap > 2 * max(float((one.std() ** 2).sum() ** 0.5) for one in own)
    assert table.equals(shown(kind))
    # t-SNE starts from the principal components, whatever the seed.
    assert table.equals(shown(kind, seed=2)) == (kind is Tsne)


def test_rows_say_what_each_image_is() -> None:
    table = shown(Tsne)
    roles = {row["index"]: row["role"] for _, row in table.iterrows()}
    expected = {n: "poison" if n % 20 == 0 else "cross" if n % 20 == 10 else "clean" for n in roles}
    assert roles == expected
    assert table["given"].tolist() == [n % 2 for n in range(60)]
    # What poison was is not known, and clean images are what they are given as.
    assert table["true"].isna().tolist() == [role != "clean" for role in table["role"]]
    assert table["stamped"].tolist() == [role == "poison" for role in table["role"]]
    assert table["wanted"].isna().all()


def test_of_the_test_images_those_with_the_trigger_stand_beside_the_others() -> None:
    table = shown(Tsne, pool="test")
    assert table["index"].tolist() == [*range(60), *range(6)]
    assert table["stamped"].tolist() == [False] * 60 + [True] * 6
    pairs = blobs().pairs
    assert table["true"].tolist()[60:] == pairs.y_M.tolist()
    assert table["wanted"].tolist()[60:] == pairs.wanted_M.tolist()
    assert table["wanted"][:60].isna().all()


@pytest.mark.parametrize("reduce", ["mean", "max", "l2"])
def test_a_layer_of_the_encoder_is_named_or_unknown(reduce: str) -> None:
    assert len(shown(Tsne, layer="0", reduce=reduce)) == 60
    with pytest.raises(UserError, match="no module 'nowhere'"):
        shown(Tsne, layer="nowhere")


def test_fewer_images_than_neighbours_are_shown_and_too_few_are_one_clear_error() -> None:
    assert len(shown(Tsne, images=5)) == 5
    few = given(linear_victim(torch.ones(2, 48)), some_pairs(4))
    with pytest.raises(UserError, match="4 images"):
        Tsne().analyse(few, stream())


def test_a_sample_has_each_group_in_its_share_and_no_row_twice() -> None:
    group_N = torch.cat([torch.zeros(800), torch.ones(150), torch.full((50,), 2.0)]).long()
    group_N = group_N[torch.randperm(1000, generator=stream())]
    rows = in_proportion(group_N, 100, stream(1))
    assert len(set(rows.tolist())) == 100
    counts = group_N[rows].bincount().tolist()
    assert all(abs(count - share) <= 1 for count, share in zip(counts, (80, 15, 5), strict=True))
    assert rows.tolist() == sorted(rows.tolist())
    assert not torch.equal(rows, in_proportion(group_N, 100, stream(2)))
    assert in_proportion(group_N, 2000, stream()).tolist() == list(range(1000))


def test_stamped_test_images_wear_the_trigger() -> None:
    scene = blobs()
    seen: list[torch.Tensor] = []

    class Watched(torch.nn.Flatten):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            z_BD: torch.Tensor = super().forward(x_BCHW)
            seen.append(z_BD)
            return z_BD

    scene.victim.encoder = Watched()
    Tsne(pool="test").analyse(scene, stream())
    expected = scene.victim.preprocess(scene.pairs.worn_MCHW).flatten(1)
    assert torch.allclose(torch.cat(seen)[60:], expected)
