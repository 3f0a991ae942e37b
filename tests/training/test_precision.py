"""A pinned precision holds for all that is computed inside."""

import torch

from raybd.training.precision import bf16, has_bf16, pinned, precision

CPU = torch.device("cpu")


def in_bf16() -> bool:
    """Return whether a matrix product is computed in bf16 now."""
    one = torch.ones(2, 2)
    with bf16(CPU):
        return (one @ one).dtype == torch.bfloat16


def test_fp32_is_used_where_it_is_pinned_and_only_there() -> None:
    before = in_bf16()
    with pinned("fp32"):
        assert not in_bf16()
        assert precision() == "fp32"
        with pinned(None):
            assert in_bf16() == before
        assert not in_bf16()
    assert in_bf16() == before
    assert (precision() == "fp32") == (not has_bf16())


def test_what_is_recorded_is_what_is_used() -> None:
    for wanted in (None, "fp32"):
        with pinned(wanted):  # type: ignore[arg-type]
            assert (precision() == "fp32") == (not in_bf16())
