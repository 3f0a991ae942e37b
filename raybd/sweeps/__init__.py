"""Sweeps: their file, search space, objectives and trials. What runs them is in engine/tune."""
