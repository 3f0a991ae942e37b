"""Faults that are planted on purpose, one at a time: the tests must notice each of them.

`make mutants` runs them; a test (tests/test_mutants.py) checks that the list fits the code.
"""
