"""Classifiers on a frozen encoder."""
