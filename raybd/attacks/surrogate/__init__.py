"""Attacks that change training data with the help of a clean model."""
