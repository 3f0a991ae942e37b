"""A large experiment that was never run: rows of the cells table with drawn numbers."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from raybd.results.schemas import CELLS

DATASETS = ("cifar10", "gtsrb", "cifar100")
NETWORKS = ("small_cnn", "resnet18")
SEEDS = (0, 1, 2)
TRIGGERS = {
    "badnets": ("data", "all_to_one"),
    "blended": ("data", "all_to_one"),
    "wanet": ("data", "all_to_one"),
    "sig": ("data", "clean_label"),
    "label_consistent": ("data", "clean_label"),
    "refool": ("data", "clean_label"),
    "input_aware": ("training", "all_to_one"),
    "lira": ("training", "all_to_one"),
    "blind": ("training", "all_to_one"),
    "badencoder": ("encoder", "all_to_one"),
}
RATES = (0.1, 0.05, 0.01)
DETECTORS = ("spectral", "strip", "scan_em", "asset", "beatrix", "ted", "teco", "flare")
REPAIRS = ("fine_tune", "anp", "clp", "nad", "ibau", "ep", "mcr", "rnp")
TRAINED = ("abl", "dbd", "nab")
SCANNERS = ("decree", "mm_bd")
START = datetime(2026, 1, 1, tzinfo=UTC)


def synthetic(n: int = 12_000, seed: int = 0, **changed: Any) -> list[dict[str, Any]]:
    """Return n rows: of one problem after the other, all defenses with all seeds.

    Some cells failed, some are infeasible, and some attacks failed. `changed` replaces columns.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    attacks = [("none", 0.0), *((attack, rate) for attack in TRIGGERS for rate in RATES)]
    defenses = [
        ("none", "none"),
        *((name, "detector") for name in DETECTORS),
        *((name, "repair") for name in REPAIRS),
        *((name, "trainer") for name in TRAINED),
        *((name, "scanner") for name in SCANNERS),
    ]
    for dataset in DATASETS:
        for network in NETWORKS:
            for attack, rate in attacks:
                for defense, role in defenses:
                    for trial in SEEDS:
                        if len(rows) == n:
                            return rows
                        names = (dataset, network, attack, rate, defense, role, trial)
                        rows.append({**_row(names, len(rows), rng), **changed})
    return rows


def _row(names: tuple[Any, ...], number: int, rng: np.random.Generator) -> dict[str, Any]:
    dataset, network, attack, rate, defense, role, seed = names
    threat, labels = TRIGGERS.get(attack, ("none", "all_to_one"))
    config = {
        "attack": {"kind": attack, "labels": {"map": labels, "target": 0}, "rate": rate},
        "dataset": {"kind": dataset, "limit": 5000, "split_seed": 0},
        "defense": None if defense == "none" else {"kind": defense, "version": 1},
        "network": {"kind": network, "width": 32},
        "stages": {"victim": f"{number:020x}", "poison": f"{number:020x}"},
        "trainer": {"kind": "supervised", "epochs": 20, "batch_size": 128, "lr": 0.1},
    }
    row: dict[str, Any] = {
        **dict.fromkeys(CELLS.names),
        "cell": f"{number:016x}",
        "experiment": "synthetic",
        "dataset": dataset,
        "network": network,
        "trainer": "supervised",
        "attack": attack if rate in (0.0, RATES[0]) else f"{attack}_{RATES.index(rate) + 1}",
        "rate": rate,
        "rate_basis": None if threat == "none" else "of_dataset",
        "threat_model": threat,
        "defense": defense,
        "defense_role": role,
        "seed": seed,
        "config": json.dumps(config, sort_keys=True),
        "versions": json.dumps({"raybd": "0.1.0", "torch": "2.11.0"}),
        "commit": "0123456789ab",
        "finished_at": START + timedelta(seconds=number),
        "config_id": "f" * 16,
        "status": "ok",
        "oracle": False,
    }
    chance = rng.random()
    if role != "none" and chance < 0.01:
        return {**row, "status": "failed", "error": "OutOfMemoryError: 3 GiB of 2 GiB"}
    if role == "trainer" and attack == "badencoder":
        return {**row, "status": "infeasible", "error": "it trains no encoder"}
    return {**row, **_numbers(attack, defense, role, rate, seed, rng)}


def _numbers(
    attack: str, defense: str, role: str, rate: float, seed: int, rng: np.random.Generator
) -> dict[str, Any]:
    # The victim of a seed is shared by all its defenses.
    victim = np.random.default_rng([len(attack), round(rate * 1000), seed])
    success = 0.3 if (attack, rate) == ("sig", 0.01) else 0.9 + 0.1 * victim.random()
    accuracy = 0.85 + 0.05 * victim.random()
    skill = (sum(map(ord, defense)) % 40) / 40
    numbers: dict[str, Any] = {
        "clean_accuracy": accuracy,
        "attack_success": None if attack == "none" else success,
        "test_n": 1000,
        "counted_n": 900,
        "seconds": 5 + 40 * skill * rng.random(),
        "gpu_seconds": 0.0,
        "peak_memory_bytes": 2**30,
        "device": "cpu (x86_64, 2 cores)",
        "workers": 1,
    }
    if role == "detector":
        # As far as AUROC and its interval are shares.
        auroc = float(np.clip(0.5 + 0.5 * skill + 0.1 * rng.normal(), 0.3, 0.999))
        poisoned = attack != "none"
        numbers |= {
            "auroc": auroc if poisoned else None,
            "auroc_low": max(0.0, auroc - 0.02) if poisoned else None,
            "auroc_high": min(1.0, auroc + 0.02) if poisoned else None,
            "tpr": float(np.clip(auroc - 0.1, 0, 1)) if poisoned else None,
            "fpr": 0.05 * rng.random(),
            "n_scores": 5000,
            "n_flagged": 400,
        }
    elif role in ("repair", "trainer"):
        left = float(np.clip(0.8 - 0.8 * skill + 0.1 * rng.normal(), 0, 1))
        numbers |= {
            "defended_clean_accuracy": accuracy - 0.06 * rng.random(),
            "defended_attack_success": None if attack == "none" else left,
        }
    elif role == "scanner":
        called = rng.random() < (0.2 + 0.6 * skill if attack != "none" else 0.1)
        numbers |= {"model_score": 1 + rng.random(), "n_flagged": int(called)}
    return numbers
