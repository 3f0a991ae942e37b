"""`raybd submit`: an experiment or sweep as a Ray job, followed until it ends.

The package is small, the log survives a lost connection, and the exit code is that of the run. The
id of a job is a hash of what it runs, so the same command again finds a job that still runs; a job
that runs again computes only what is not in the store.
"""
