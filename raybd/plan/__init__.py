"""An experiment: its file, its cells, the graph of their stages, what is left to do."""
