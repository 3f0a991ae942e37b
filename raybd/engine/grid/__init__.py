"""Running the stages of an experiment on Ray."""
