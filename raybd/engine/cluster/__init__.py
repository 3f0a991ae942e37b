"""Connecting to a cluster, checking it, submitting jobs to it.

The settings below are set before Ray is imported, which reads some of them at import. A value that
the environment has already is kept.
"""

import os

SETTINGS = {
    # Ray would send usage reports, and print a notice about that at each start.
    "RAY_USAGE_STATS_ENABLED": "0",
    # A task that asks for no GPU sees none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # Notice the death of a worker of a group within half a second.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A stage that ran out of memory twice will do so again.
    "RAY_task_oom_retries": "1",
    # One process less: after the loss of a node a group continues from its checkpoint anyway.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}

for setting, value in SETTINGS.items():
    os.environ.setdefault(setting, value)
