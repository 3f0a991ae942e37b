"""`raybd doctor`: checks of the machine, the cluster and the store, before anything is run."""
