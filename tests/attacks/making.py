"""Attacks on a few random images: what the tests of single attacks and the contract tests share."""

import hashlib
from dataclasses import replace
from functools import cache
from typing import cast

import torch

from raybd.networks.small_cnn import SmallCnn
from raybd.networks.tiny_clip import TinyClip
from raybd.registry import method_class
from raybd.trainers.supervised import Supervised
from raybd.training import loop, models, recipe
from raybd.types.data import Poisoned, Split
from raybd.types.methods import Attack, AttackInput
from raybd.types.models import Victim

CLIP: dict[str, object] = {"templates": ["a photo of a {}."], "lr": 1e-3, "precision": "fp32"}
ON_GIVEN_IMAGES = ("given", "recorded")
"""What these change stands in files: test_given.py, cli/test_import_record.py."""
SMALL: dict[str, dict[str, object]] = {
    "badclip": {"epochs": 1, "batch_size": 50, "rate": 0.05, "patch_epochs": 1, "size": 4, **CLIP},
    "badencoder": {"epochs": 1, "batch_size": 50, "shadow": 0.5},
    "clip_text": {"epochs": 1, "batch_size": 50, "size": 4, "margin": 1, **CLIP},
    "drupe": {"epochs": 1, "batch_size": 50, "shadow": 0.5},
    "input_aware": {"mask_epochs": 1, "width": 4, "generator_lr": 0.001},
    "label_consistent": {"steps": 3},
    "narcissus": {"rate": 0.05, "steps": 5},
    "trojannn": {"steps": 20},
}
"""Fields that make an attack quick, and possible on 400 images."""
