"""JouleLab measures, studies, forecasts and reduces the energy of machine learning.

Example:
    >>> import joulelab
    >>> with joulelab.measure("preprocessing", sensors=["simulated"]) as span:
    ...     squares = [n * n for n in range(100000)]
    >>> span.energy.net_j < span.energy.gross_j or span.energy.idle_j != span.energy.idle_j
    True
"""

from __future__ import annotations

from joulelab.errors import JoulelabError, UserError

TYPE_CHECKING = False  # Importing typing takes 3 ms, for which a command would wait.
if TYPE_CHECKING:
    from typing import Any

    from IPython.core.interactiveshell import InteractiveShell

    from joulelab.loops import epochs
    from joulelab.meter import Meter, measure

__version__ = "0.1.0"

__all__ = ["JoulelabError", "Meter", "UserError", "__version__", "epochs", "measure"]


def __getattr__(name: str) -> Any:
    """Imports the meter when it is used: a command that is wrapped does not wait for it."""
    if name in ("Meter", "measure"):
        from joulelab import meter  # noqa: PLC0415

        return getattr(meter, name)
    if name == "epochs":
        from joulelab.loops import epochs  # noqa: PLC0415

        return epochs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ipython_extension(shell: InteractiveShell) -> None:
    """``%load_ext joulelab``: cells are measured with ``%%joulelab``."""
    from joulelab.integrations.notebook import load  # noqa: PLC0415

    load(shell)
