"""The account of everything so far. It reads the whole trace, so it is made seldom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from joulelab.accounting.account import Accounts, Window
from joulelab.accounting.baseline import Baseline
from joulelab.accounting.energy import Energy, total
from joulelab.accounting.marked import Marked, marked
from joulelab.errors import UserError
from joulelab.jobs.record import SpanTotal
from joulelab.recording.trace import Trace
from joulelab.watch.spans import Key, SpanBook

if TYPE_CHECKING:
    from joulelab.forecast.profile import Forecast


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """Everything from the beginning to a time.

    Attributes:
        until_ns: That time, CLOCK_MONOTONIC.
        energy: Of all of it.
        spans: Of the ended spans by name; a name that has more than are kept is not here.
        of_span: The energy of single spans.
        forecast: Of the run; ``None`` where there is none.
        forecast_words: The forecast, or why there is none; empty where nobody asks.
    """

    until_ns: int
    energy: Energy
    spans: Mapping[str, SpanTotal] = field(default_factory=dict)
    of_span: Mapping[Key, Energy] = field(default_factory=dict)
    forecast: Forecast | None = None
    forecast_words: str = ""


def account_whole(
    trace: Trace,
    book: SpanBook,
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
        start_ns: Where what is watched began.
        until_ns: What the sensors have covered.
        baseline: Idle power.
        epochs: How many there will be, where that is known beside what the spans say.
    """
    accounts = Accounts(trace, baseline)
    ended = [
        span
        for span in marked(book.events())
        if span.stop_ns is not None and span.stop_ns <= until_ns
    ]
    energy, *of_spans = accounts.energies(
        [Window(start_ns, until_ns), *(span.window for span in ended)]
    )
    of_span = {span.key: one for span, one in zip(ended, of_spans, strict=True)}
    forecast, words = _forecast(accounts, book, epochs)
    return Whole(
        until_ns=until_ns,
        energy=energy,
        spans=_totals(book, ended, of_span),
        of_span=of_span,
        forecast=forecast,
        forecast_words=words,
    )


def _totals(
    book: SpanBook, ended: list[Marked], of_span: Mapping[Key, Energy]
) -> dict[str, SpanTotal]:
    by_name: dict[str, list[Energy]] = {}
    for span in ended:
        if book.ended[span.name].complete:
            by_name.setdefault(span.name, []).append(of_span[span.key])
    return {name: _total(name, energies) for name, energies in by_name.items()}


def _total(name: str, energies: list[Energy]) -> SpanTotal:
    energy = total(energies)
    low_j, high_j = energy.interval_j
    return SpanTotal(
        name=name,
        count=len(energies),
        duration_s=energy.duration_s,
        gross_j=energy.gross_j,
        low_j=low_j,
        high_j=high_j,
        net_j=energy.net_j,
    )


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
