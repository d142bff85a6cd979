"""The account of everything so far. It reads the whole trace, so it is made seldom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from joulelab.accounting.account import Accounts, Window
from joulelab.accounting.baseline import Baseline
from joulelab.accounting.energy import Energy
from joulelab.errors import UserError
from joulelab.recording.trace import Trace
from joulelab.watch.spans import SpanBook
from joulelab.watch.totals import Totals

if TYPE_CHECKING:
    from joulelab.forecast.profile import Forecast


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """Everything from the beginning to a time.

    Attributes:
        until_ns: That time, CLOCK_MONOTONIC.
        energy: Of all of it.
        forecast: Of the run; ``None`` where there is none.
        forecast_words: The forecast, or why there is none; empty where nobody asks.
    """

    until_ns: int
    energy: Energy
    forecast: Forecast | None = None
    forecast_words: str = ""


def account_whole(
    trace: Trace,
    book: SpanBook,
    totals: Totals,
    *,
    start_ns: int,
    until_ns: int,
    baseline: Baseline | None,
    epochs: int | None,
) -> Whole:
    """Accounts for a trace up to a time.

    Args:
        trace: All of it.
        book: Its spans.
        totals: Gets the energies of those that wait.
        start_ns: Where what is watched began.
        until_ns: What the sensors have covered.
        baseline: Idle power.
        epochs: How many there will be, where that is known beside what the spans say.
    """
    accounts = Accounts(trace, baseline)
    spans = totals.waiting(start_ns, until_ns)
    energy, *of_spans = accounts.energies(
        [Window(start_ns, until_ns), *(span.window for span in spans)]
    )
    totals.fill(spans, of_spans)
    forecast, words = _forecast(accounts, book, epochs)
    return Whole(until_ns=until_ns, energy=energy, forecast=forecast, forecast_words=words)


def _forecast(
    accounts: Accounts, book: SpanBook, epochs: int | None
) -> tuple[Forecast | None, str]:
    """A forecast, where the run has epochs and it is known how many."""
    if not book.has_epochs:
        return None, ""
    epochs = epochs or book.epochs
    if epochs is None:
        return None, "no forecast: the number of epochs is not known; give --epochs N"
    from joulelab.forecast.marked import profile_of  # noqa: PLC0415
    from joulelab.forecast.words import line  # noqa: PLC0415

    try:
        forecast = profile_of(book.complete(), accounts.energies).forecast(epochs)
    except UserError as error:
        return None, f"no forecast yet: {error}"
    return forecast, line(forecast)
