"""Follows a trace that grows, and says what is known of it by now.

What changes from second to second is worked out of the last readings alone. The energy since the
beginning needs them all: it is worked out so seldom that it takes at most :data:`WHOLE_SHARE` of
the time, and what came since is added to it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from joulelab.accounting.account import Accounts, Window
from joulelab.accounting.baseline import Baseline
from joulelab.accounting.energy import Energy
from joulelab.recording.trace import Trace, TraceReader
from joulelab.watch.history import History
from joulelab.watch.model import Component, Ended, Gauge
from joulelab.watch.recent import covered_ns, gauges, in_order, newest_ns, slowest_s, source_of
from joulelab.watch.spans import SpanBook
from joulelab.watch.totals import Totals
from joulelab.watch.whole import Whole, account_whole

NOW_S = 1.0
"""Power now is the mean over this time, or over two readings of the slowest sensor."""
MARGIN_S = 5.0
"""Readings from so long before what is asked for are looked at too."""
WHOLE_SHARE = 0.005
LEAST_WHOLE_S = 2.0
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
        self._baseline, self._epochs = baseline, epochs
        self._history = History(self.start_ns)
        self._totals = Totals()
        self._whole: Whole | None = None
        self._next_whole_s = 0.0

    def look(self, *, final: bool = False) -> Figures:
        """What the trace says by now.

        Args:
            final: It will not grow any more, so that everything is accounted for once more.
        """
        self.book.add(self._reader.new_events())
        self._totals.add(self.book.newly_ended())
        since_ns = self._history.since_ns
        if self._whole is not None:
            since_ns = min(since_ns, self._whole.until_ns)
        trace = self._read_since(since_ns)
        until_ns = covered_ns(trace)
        seen_s = (until_ns - self.start_ns) * 1e-9
        if seen_s <= 0 or (seen_s < NOW_S and not final):
            return Figures(until_ns=0, newest_ns=newest_ns(trace), gauges=gauges(trace))
        if self._whole is None or final or time.monotonic() >= self._next_whole_s:
            self._whole = self._account_whole(until_ns)
        return self._figures(trace, since_ns, until_ns, self._whole)

    def unix_s(self, t_ns: int) -> float:
        """The wall clock's time at a time of the trace, as it went when the recording began."""
        start_ns = int(self.header.get("start_ns", 0))
        return float(self.header.get("start_unix_s", math.nan)) + (t_ns - start_ns) * 1e-9

    def _read_since(self, t_ns: int) -> Trace:
        since_ns = t_ns - round(MARGIN_S * 1e9)
        return self._reader.read_since(since_ns, self.book.events(since_ns))

    def _account_whole(self, until_ns: int) -> Whole:
        begin_s = time.thread_time()
        whole = account_whole(
            self._read_since(self.start_ns),
            self.book,
            self._totals,
            start_ns=self.start_ns,
            until_ns=until_ns,
            baseline=self._baseline,
            epochs=self._epochs,
        )
        cost_s = time.thread_time() - begin_s
        self._next_whole_s = time.monotonic() + max(LEAST_WHOLE_S, cost_s / WHOLE_SHARE)
        return whole

    def _figures(self, trace: Trace, since_ns: int, until_ns: int, whole: Whole) -> Figures:
        now_ns = round(max(NOW_S, 2 * slowest_s(trace)) * 1e9)
        steps = self._history.due(until_ns)
        ended = self._totals.waiting(since_ns, until_ns)
        now, since, *others = Accounts(trace, self._baseline).energies(
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
        return Figures(
            until_ns=until_ns,
            newest_ns=newest_ns(trace),
            gauges=gauges(trace),
            components=self._components(trace, now, energy),
            power_w=now.mean_power_w,
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
