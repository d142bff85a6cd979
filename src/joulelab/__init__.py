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
from joulelab.meter import Meter, measure

__version__ = "0.1.0"

__all__ = ["JoulelabError", "Meter", "UserError", "__version__", "measure"]
