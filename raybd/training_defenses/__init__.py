"""Trainings that are defenses: a clean model from a poisoned set."""
