"""raybd: distributed evaluation of backdoor attacks and defenses on image models, on Ray.

Importing the package is fast: torch and Ray are imported by the functions that need them.
"""

import typing

if typing.TYPE_CHECKING:
    from raybd.api import (
        analyse,
        board,
        combine,
        load_analysis,
        load_cells,
        load_dynamics,
        load_predictions,
        load_scores,
        load_trials,
        run,
        run_cell,
        scan,
        scan_model,
        sweep,
    )

__all__ = [
    "__version__",
    "analyse",
    "board",
    "combine",
    "load_analysis",
    "load_cells",
    "load_dynamics",
    "load_predictions",
    "load_scores",
    "load_trials",
    "run",
    "run_cell",
    "scan",
    "scan_model",
    "sweep",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> typing.Any:
    """Import the public functions when they are used for the first time."""
    if name in __all__:
        from raybd import api

        return getattr(api, name)
    raise AttributeError(f"module 'raybd' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, so that an interactive shell completes them."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
