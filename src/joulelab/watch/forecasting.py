"""A forecast of the run that is watched, from its spans."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from joulelab.energy.energy import Energy
from joulelab.energy.estimator import EnergyEstimator
from joulelab.errors import UserError
from joulelab.recording.trace_spans import Window
from joulelab.watch.running import Read
from joulelab.watch.spans import SpanBook
from joulelab.watch.totals import Totals

if TYPE_CHECKING:
    from joulelab.forecast.profile import Forecast


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a run will take.

    Attributes:
        forecast: ``None`` where there is none.
        words: The forecast, or why there is none; empty where nobody asks.
    """

    forecast: Forecast | None = None
    words: str = ""


@functools.cache
def prepare() -> None:
    """Loads what forecasts need, once: it takes a second, and is no part of an account's cost."""
    from joulelab.forecast.series import load_scipy  # noqa: PLC0415

    # Without it :meth:`Profile.forecast` says what to install.
    with contextlib.suppress(UserError):
        load_scipy()


def outlook(book: SpanBook, totals: Totals, read: Read, epochs: int | None) -> Outlook:
    """A forecast, where a run has epochs and it is known how many.

    Args:
        book: Its spans.
        totals: Knows the energies of most.
        read: Gives the readings between two times, for the others.
        epochs: How many there will be; ``None`` when that is not known.
    """
    if not book.has_epochs:
        return Outlook()
    if epochs is None:
        return Outlook(None, "no forecast: the number of epochs is not known; give --epochs N")
    from joulelab.forecast.sources import profile_of  # noqa: PLC0415

    def energies(windows: Sequence[Window]) -> list[Energy]:
        found = {window: totals.known.get(window) for window in windows}
        missing = [window for window, energy in found.items() if energy is None]
        if missing:
            first_ns = min(window.start_ns for window in missing)
            last_ns = max(max(one.stop_ns, one.device_stop_ns or 0) for one in missing)
            accounts = EnergyEstimator(read(first_ns, last_ns))
            found |= zip(missing, accounts.energies(missing), strict=True)
        return [energy for window in windows if (energy := found[window]) is not None]

    try:
        forecast = profile_of(book.complete(), energies).forecast(epochs)
    except UserError as error:
        return Outlook(None, f"no forecast: {error}")
    return Outlook(forecast, str(forecast))
