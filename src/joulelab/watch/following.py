"""Follows a trace that grows, and says what is known of it by now.

What changes from second to second is worked out of the last readings alone. The energy since the
beginning needs them all: it is worked out seldom, and what came since is added to it. Both are done
no oftener than keeps them to a share of one processor's time, whatever they take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from joulelab.accounting.account import Accounts, Window
from joulelab.accounting.baseline import Baseline
from joulelab.accounting.energy import Energy
from joulelab.recording.trace import Trace, TraceReader
from joulelab.watch.history import History
from joulelab.watch.model import Component, Ended, Gauge
from joulelab.watch.pace import Pace
from joulelab.watch.recent import covered_ns, gauges, in_order, newest_ns, slowest_s, source_of
from joulelab.watch.spans import SpanBook
from joulelab.watch.totals import Totals
from joulelab.watch.whole import Whole, account_whole

NOW_S = 1.0
"""Power now is the mean over this time, or over two readings of the slowest sensor."""
MARGIN_S = 5.0
"""Readings from so long before what is asked for are looked at too."""
RECENT_SHARE, LEAST_RECENT_S = 0.01, 0.9
"""Share of a processor's time for the last readings, and the least time between two accounts."""
WHOLE_SHARE, LEAST_WHOLE_S = 0.005, 2.0
"""The same for all readings."""
NEVER_NS = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a trace says; see :class:`~joulelab.watch.model.View` for what is not told here.

    Attributes:
        until_ns: Up to when it says it, CLOCK_MONOTONIC; 0 before the first readings.
        newest_ns: When the last reading of all was.
        whole: The last account of everything.
    """

    until_ns: int
    newest_ns: int
    gauges: tuple[Gauge, ...]
    components: tuple[Component, ...] = ()
    power_w: float = math.nan
    energy: Energy | None = None
    ended: tuple[Ended, ...] = ()
    whole: Whole | None = None


class Following:
    """A trace that grows.

    Args:
        directory: Holds it.
        baseline: Idle power on the trace's clock.
        start_ns: Where what is watched began; ``None``: with the recording.
        epochs: How many there will be, where that is known.

    Raises:
        TraceError: There is no trace, or it is not one.
    """

    def __init__(
        self,
        directory: Path,
        *,
        baseline: Baseline | None = None,
        start_ns: int | None = None,
        epochs: int | None = None,
    ) -> None:
        self._reader = TraceReader(directory)
        nothing = self._reader.read_since(NEVER_NS)
        self.header, self.absent = nothing.header, nothing.absent
        self.start_ns = int(self.header.get("start_ns", 0) if start_ns is None else start_ns)
        self.book = SpanBook(self.start_ns)
        self.baseline, self._epochs = baseline, epochs
        self._history = History(self.start_ns)
        self._totals = Totals()
        self._whole: Whole | None = None
        self._figures = Figures(until_ns=0, newest_ns=0, gauges=())
        self._recent_pace = Pace(RECENT_SHARE, LEAST_RECENT_S)
        self._whole_pace = Pace(WHOLE_SHARE, LEAST_WHOLE_S)

    def look(self, *, final: bool = False) -> Figures:
        """What the trace says by now.

        Args:
            final: It will not grow any more, so that everything is accounted for once more.
        """
        self.book.add(self._reader.new_events())
        self._totals.add(self.book.newly_ended())
        if not self._figures.until_ns:
            self._figures = self._begin(final=final)
        elif final or self._whole_pace.due:
            with self._whole_pace:
                self._whole = self._account_whole()
        if self._whole is not None and (final or self._recent_pace.due):
            with self._recent_pace:
                self._figures = self._account_recent(self._whole)
        return self._figures

    def _begin(self, *, final: bool) -> Figures:
        """Looks whether there is enough to begin with, and then accounts for all of it."""
        trace = self._read_since(self.start_ns)
        seen_s = (covered_ns(trace) - self.start_ns) * 1e-9
        if seen_s >= NOW_S or (seen_s > 0 and final):
            with self._whole_pace:
                self._whole = self._account_whole()
        return Figures(until_ns=0, newest_ns=newest_ns(trace), gauges=gauges(trace))

    def unix_s(self, t_ns: int) -> float:
        """The wall clock's time at a time of the trace, as it went when the recording began."""
        start_ns = int(self.header.get("start_ns", 0))
        return float(self.header.get("start_unix_s", math.nan)) + (t_ns - start_ns) * 1e-9

    def _read_since(self, t_ns: int) -> Trace:
        since_ns = t_ns - round(MARGIN_S * 1e9)
        return self._reader.read_since(since_ns, self.book.events(since_ns))

    def _account_whole(self) -> Whole:
        trace = self._read_since(self.start_ns)
        return account_whole(
            trace,
            self.book,
            self._totals,
            start_ns=self.start_ns,
            until_ns=covered_ns(trace),
            baseline=self.baseline,
            epochs=self._epochs,
        )

    def _account_recent(self, whole: Whole) -> Figures:
        since_ns = min(self._history.since_ns(whole.until_ns), whole.until_ns)
        trace = self._read_since(since_ns)
        until_ns = covered_ns(trace)
        now_ns = round(max(NOW_S, 2 * slowest_s(trace)) * 1e9)
        steps = self._history.due(until_ns)
        ended = self._totals.waiting(since_ns, until_ns)
        now, since, *others = Accounts(trace, self.baseline).energies(
            [
                Window(max(until_ns - now_ns, self.start_ns), until_ns),
                Window(min(whole.until_ns, until_ns), until_ns),
                *(self._history.window(step) for step in steps),
                *(span.window for span in ended),
            ]
        )
        self._history.fill(steps, others[: len(steps)])
        self._totals.fill(ended, others[len(steps) :])
        energy = _sum(whole.energy, since)
        components = self._components(trace, now, energy)
        return Figures(
            until_ns=until_ns,
            newest_ns=newest_ns(trace),
            gauges=gauges(trace),
            components=components,
            power_w=math.fsum(one.power_w for one in components) if components else math.nan,
            energy=energy,
            ended=self._totals.rows(),
            whole=whole,
        )

    def _components(self, trace: Trace, now: Energy, energy: Energy) -> tuple[Component, ...]:
        names = {channel.component for channel in trace.channels if channel.gives_energy}
        rows = []
        for name in sorted(names, key=in_order):
            part, so_far = now.components.get(name), energy.components.get(name)
            channel = source_of(name, trace.channels)
            known = part or so_far
            rows.append(
                Component(
                    name=name,
                    power_w=part.mean_power_w if part else math.nan,
                    history_w=self._history.of(name),
                    gross_j=so_far.gross_j if so_far else math.nan,
                    source=known.source if known else channel.source,
                    provenance=(known or channel).provenance,
                )
            )
        return tuple(rows)


def _sum(whole: Energy, since: Energy) -> Energy:
    """Both together, where the same components were seen in both."""
    if set(whole.components) != set(since.components) or not since.duration_s:
        return whole
    return whole + since
