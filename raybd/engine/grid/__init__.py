"""The stages of an experiment on Ray."""
