"""Attacks that change training data and need nothing else."""
