"""Attacks: one file (or folder) for each; its name is the registered name."""
