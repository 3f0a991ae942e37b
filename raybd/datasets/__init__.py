"""Data sets: one file each, named as experiments name it."""
