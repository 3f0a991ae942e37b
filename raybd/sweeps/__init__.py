"""A sweep: its file, its search space, its objectives, its trials."""
