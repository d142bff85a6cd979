"""Measure, study, forecast and reduce the energy of machine learning.

Example:
    >>> import joulelab
    >>> with joulelab.measure("preprocessing", sensors=["simulated"]) as span:
    ...     squares = [n * n for n in range(100_000)]
    >>> low_j, high_j = span.energy.interval_j
    >>> low_j <= span.energy.gross_j <= high_j
    True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from joulelab.errors import JoulelabError, UserError

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from joulelab import integrations
    from joulelab.carbon.site import Site
    from joulelab.energy.energy import Energy
    from joulelab.loops import epochs
    from joulelab.meter import Meter, measure, report_metrics
    from joulelab.runs.record import Run
    from joulelab.runs.selection import open_run, open_runs
    from joulelab.tune.loop import Tune

__version__ = "0.1.0"

__all__ = [
    "Energy",
    "JoulelabError",
    "Meter",
    "Run",
    "Site",
    "Tune",
    "UserError",
    "__version__",
    "epochs",
    "integrations",
    "measure",
    "open_run",
    "open_runs",
    "report_metrics",
]

_MODULES = {
    "Energy": "joulelab.energy.energy",
    "Meter": "joulelab.meter",
    "Run": "joulelab.runs.record",
    "Site": "joulelab.carbon.site",
    "Tune": "joulelab.tune.loop",
    "epochs": "joulelab.loops",
    "measure": "joulelab.meter",
    "open_run": "joulelab.runs.selection",
    "open_runs": "joulelab.runs.selection",
    "report_metrics": "joulelab.meter",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that ``joulelab run`` starts without NumPy."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name == "integrations":
        return importlib.import_module("joulelab.integrations")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register ``%%joulelab`` and ``%joulelab``; called by ``%load_ext joulelab``."""
    importlib.import_module("joulelab.integrations.notebook").load(shell)
