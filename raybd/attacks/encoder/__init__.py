"""Attacks that turn a clean encoder into a backdoored one."""
