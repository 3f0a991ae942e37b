"""Trainers of encoders that need no labels, or only to contrast."""
