"""The cells of a store as runs of another program: one run for each cell, without its scores."""
