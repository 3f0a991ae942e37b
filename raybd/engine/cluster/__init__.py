"""Connecting to a cluster, looking at it, submitting jobs to it."""
