"""Embeddings and logits of a split: those that came with it, or computed now."""

from dataclasses import replace

import torch

from raybd.training.inference import embeddings, infer, logits
from tests.small_scene import small_scene


def test_what_an_earlier_stage_computed_is_taken_and_else_it_is_computed() -> None:
    victim, suspects, _ = small_scene()
    assert torch.equal(logits(victim, suspects), infer(victim, suspects.x_NCHW))
    assert torch.equal(embeddings(victim, suspects), infer(victim, suspects.x_NCHW, victim.embed))

    given = replace(suspects, z_ND=torch.ones(90, 2), logits_NK=torch.zeros(90, 3))
    assert logits(victim, given) is given.logits_NK
    assert embeddings(victim, given) is given.z_ND
