"""Attacks that control training."""
