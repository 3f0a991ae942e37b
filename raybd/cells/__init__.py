"""A cell: its stages, how they run in one process, its row."""
