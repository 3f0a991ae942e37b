"""Sweeps: Ray Tune and Optuna."""
