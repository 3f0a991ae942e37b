"""raybd: a distributed evaluation cluster, on Ray, for backdoor attacks and defenses on image models.

Importing the package is cheap: torch and Ray are loaded by the functions that need them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raybd.api import load_cells, load_scores, load_trials, run, sweep

__all__ = ["__version__", "load_cells", "load_scores", "load_trials", "run", "sweep"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        from raybd import api

        return getattr(api, name)
    raise AttributeError(f"module 'raybd' has no attribute {name!r}")
