"""Sweeps: Ray Tune runs the trials, Optuna chooses their values.

The settings below are set before Ray Tune is imported, which reads some of them at import. A value
that the environment has already is kept.
"""

import os

SETTINGS = {
    # raybd writes its own files and progress lines, and handles Ctrl-C itself.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Reports before the end hold the first objective only.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}

for setting, value in SETTINGS.items():
    os.environ.setdefault(setting, value)
